package stream

import (
	"crypto/rand"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
)

// prefix makes the names of this process's runs unique.
var prefix = rand.Text()[:16]

// columns adds operations to a message.
type columns struct {
	message *pb.AcquireStreamRequest
	// fresh is the last run if it is sent for the first time: what is new may join it.
	fresh *pb.AcquireRun
}

// write adds acquisitions as runs, unless they have a name of their own.
func (c *columns) write(asked *operation) {
	switch {
	case asked.alone != nil:
		asked.alone.Id = asked.id
		c.message.Operations = append(c.message.Operations, asked.alone)
	case asked.ticket != "":
		acquire := proto.CloneOf(asked.acquire)
		acquire.RequestId = asked.ticket
		c.writeAlone(asked.id, acquire)
	case asked.acquire.RequestId != "":
		c.writeAlone(asked.id, asked.acquire)
	default:
		c.writeInRun(asked)
	}
}

func (c *columns) writeAlone(id uint64, acquire *pb.AcquireRequest) {
	alone := &pb.Operation{Id: id, Operation: &pb.Operation_Acquire{Acquire: acquire}}
	c.message.Operations = append(c.message.Operations, alone)
}

func (c *columns) writeInRun(asked *operation) {
	run := c.runOf(asked)
	if asked.run == "" {
		asked.run, asked.place = run.RequestId, uint32(len(run.Ids))
	}
	run.Ids = append(run.Ids, asked.id)
	run.Places = append(run.Places, asked.place)
	for _, unit := range run.Units {
		if unit == "tokens" {
			run.Costs = append(run.Costs, asked.acquire.Tokens)
		} else {
			run.Costs = append(run.Costs, asked.acquire.Units[unit])
		}
	}
}

// runOf is the last run of the message if the operation belongs to it, else a new one.
func (c *columns) runOf(asked *operation) *pb.AcquireRun {
	if asked.run == "" && c.fresh != nil && isOf(asked.acquire, c.fresh) {
		return c.fresh
	}
	if last := len(c.message.Runs) - 1; asked.run != "" && last >= 0 && c.message.Runs[last].RequestId == asked.run {
		return c.message.Runs[last] // it keeps its name
	}
	run := &pb.AcquireRun{RequestId: asked.run, Model: asked.acquire.Model, Key: asked.acquire.Key,
		Labels: asked.acquire.Labels, MaxWait: asked.acquire.MaxWait, Units: []string{"tokens"}}
	for unit := range asked.acquire.Units {
		run.Units = append(run.Units, unit)
	}
	c.fresh = nil
	if asked.run == "" {
		run.RequestId = fmt.Sprintf("%s-%x", prefix, asked.id)
		c.fresh = run
	}
	c.message.Runs = append(c.message.Runs, run)
	return run
}

// isOf tells whether a request differs from a run in its costs only.
func isOf(request *pb.AcquireRequest, run *pb.AcquireRun) bool {
	if request.Model != run.Model || request.Key != run.Key || len(request.Units) != len(run.Units)-1 ||
		!maps.Equal(request.Labels, run.Labels) || !proto.Equal(request.MaxWait, run.MaxWait) {
		return false
	}
	for _, unit := range run.Units[1:] {
		if _, has := request.Units[unit]; !has {
			return false
		}
	}
	return true
}
