package stream

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
)

const (
	// Bytes that a request takes at most. The longest names fit, and mostInMessage of them are less
	// than the megabyte that the server takes.
	mostBytes = 8000
	// As many as the server takes, so that a run of 128 calls is not too large for it.
	mostUnits = 16
)

// operation is one that somebody waits for.
type operation struct {
	id      uint64
	acquire *pb.AcquireRequest
	alone   *pb.Operation // if it is no acquisition
	done    chan answer   // holds one, so that nobody waits for a caller
	since   time.Time     // when it was asked for, or its server lost

	run       string // the name of the run that it was first sent in, and its place there
	place     uint32
	ticket    string // by which it is known in line
	isSent    bool   // on the current stream
	inDoubt   bool   // a server that did not answer may have granted it
	isHeld    bool   // in line, by the current server
	isGivenUp bool   // nobody waits for it any more
}

type answer struct {
	response any
	err      error
}

// ask has an operation carried out, and waits for its answer.
func ask[R any](ctx context.Context, c *Client, asked *operation, request proto.Message) (R, error) {
	var none R
	if err := check(request); err != nil {
		return none, err
	}
	c.mu.Lock()
	c.add(asked)
	c.mu.Unlock()
	var came answer
	select {
	case came = <-asked.done:
	case <-ctx.Done():
		if c.giveUp(asked) {
			return none, status.FromContextError(ctx.Err()).Err()
		}
		came = <-asked.done
	}
	if came.err != nil {
		return none, came.err
	}
	return came.response.(R), nil
}

// check refuses what would end the stream for all.
func check(request proto.Message) error {
	data, err := proto.Marshal(request)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the request cannot be sent: %v", err)
	}
	if len(data) > mostBytes {
		return status.Errorf(codes.InvalidArgument,
			"the request takes %d bytes, and %d at most; shorten its names", len(data), mostBytes)
	}
	costs, ok := request.(interface{ GetUnits() map[string]int64 })
	if !ok {
		return nil
	}
	if _, has := costs.GetUnits()["tokens"]; has {
		return status.Error(codes.InvalidArgument, "tokens has a field of its own; leave it out of the units")
	}
	if count := len(costs.GetUnits()); count > mostUnits {
		return status.Errorf(codes.InvalidArgument,
			"the request has %d units, and may have %d beside tokens", count, mostUnits)
	}
	return nil
}

// add has a new operation sent with the next message. It needs the lock.
func (c *Client) add(asked *operation) {
	c.lastID++
	asked.id, asked.since, asked.done = c.lastID, time.Now(), make(chan answer, 1)
	if c.isClosed {
		asked.done <- answer{err: errClosed}
		return
	}
	c.open[asked.id] = asked
	c.enqueue(asked)
}

// enqueue needs the lock.
func (c *Client) enqueue(asked *operation) {
	c.queue = append(c.queue, asked)
	signal(c.wake)
}

// giveUp tells whether nobody has answered before.
func (c *Client) giveUp(asked *operation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[asked.id] == nil {
		return false
	}
	if asked.mayBeGranted() {
		asked.isGivenUp = true // stays open: what it was granted has to be given back
		if asked.isSent {
			c.tellGivenUp(asked)
		}
	} else {
		c.forget(asked)
	}
	return true
}

// mayBeGranted tells whether a server may have charged a call, if only one whose stream has ended.
func (o *operation) mayBeGranted() bool { return o.acquire != nil && (o.isSent || o.inDoubt) }

// tellGivenUp needs the lock.
func (c *Client) tellGivenUp(asked *operation) {
	c.givenUp = append(c.givenUp, asked.id)
	signal(c.wake)
}

// forget needs the lock.
func (c *Client) forget(asked *operation) {
	delete(c.open, asked.id)
	if asked.isSent && !asked.isHeld {
		c.inFlight--
	}
	signal(c.heard)
}

func signal(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}
