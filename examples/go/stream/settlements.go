package stream

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "openlimit.example/gen/openlimit/v1"
)

const (
	// Beyond that, the oldest are forgotten: their calls stay charged as reserved.
	mostSettlements = 100_000
	settleAgain     = time.Second // a server may be up, and its store away for long
	releaseWithin   = 10 * time.Second
	// Bytes of a reservation's own part in a run with others, of which a server reads 64 KiB. Its own
	// are shorter, and what is longer is refused alone.
	mostOfOwn = 300
)

// settlements are kept until the server acknowledges them, and sent again on the next stream if that
// comes first. The server settles each reservation once.
type settlements struct {
	unsent  []settlement
	sent    [][]settlement // by the SettleRuns of the current stream that are not acknowledged, in order
	settled uint64         // how many of the stream's runs are acknowledged
	later   int            // how many wait for a while
}

type settlement struct {
	id      uint64
	request *pb.SettleRequest
}

func (s *settlements) isIdle() bool { return len(s.unsent)+len(s.sent)+s.later == 0 }

// settle needs the lock, as does all below.
func (c *Client) settle(request *pb.SettleRequest) {
	s := &c.settling
	if len(s.unsent) >= mostSettlements {
		slog.Warn("openlimit: no server is there for so long that a settlement is forgotten",
			"reservation", s.unsent[0].request.ReservationId)
		s.unsent = s.unsent[1:]
	}
	c.lastID++
	s.unsent = append(s.unsent, settlement{c.lastID, request})
	signal(c.wake)
}

// write adds as many to a message as there is room for, as columns, and returns how many.
func (s *settlements) write(message *pb.AcquireStreamRequest, room int) int {
	count := min(room, len(s.unsent))
	first := len(s.sent)
	for _, each := range s.unsent[:count] {
		own, scope, hasScope := strings.Cut(each.request.ReservationId, "/")
		if !hasScope {
			own = each.request.ReservationId
		}
		i := slices.IndexFunc(message.Settlements, func(run *pb.SettleRun) bool {
			return run.Scope == scope && settles(each.request, run) &&
				len(own) <= mostOfOwn && len(run.ReservationIds[0]) <= mostOfOwn
		})
		if i < 0 {
			i = len(message.Settlements)
			message.Settlements = append(message.Settlements, &pb.SettleRun{Key: each.request.Key,
				Labels: each.request.Labels, Scope: scope, Units: unitsOf(each.request)})
			s.sent = append(s.sent, nil)
		}
		run := message.Settlements[i]
		run.Ids = append(run.Ids, each.id)
		run.ReservationIds = append(run.ReservationIds, own)
		for _, unit := range run.Units {
			run.Costs = append(run.Costs, used(each.request, unit))
		}
		s.sent[first+i] = append(s.sent[first+i], each)
	}
	s.unsent = s.unsent[count:]
	return count
}

// settles tells whether a request has the key, the labels and the units of a run.
func settles(request *pb.SettleRequest, run *pb.SettleRun) bool {
	return request.Key == run.Key && maps.Equal(request.Labels, run.Labels) &&
		slices.Equal(unitsOf(request), run.Units)
}

func unitsOf(request *pb.SettleRequest) []string {
	units := slices.Sorted(maps.Keys(request.Units))
	if request.Tokens != nil {
		units = append(units, "tokens")
	}
	return units
}

func used(request *pb.SettleRequest, unit string) int64 {
	if unit == "tokens" {
		return *request.Tokens
	}
	return request.Units[unit]
}

// acknowledged drops what is settled, the stream's first so many runs, and returns how many
// settlements those are.
func (s *settlements) acknowledged(runs uint64) int {
	count := 0
	for ; s.settled < runs && len(s.sent) > 0; s.settled++ {
		count += len(s.sent[0])
		s.sent = s.sent[1:]
	}
	return count
}

// failed handles the error of one, which comes before its run is acknowledged.
func (c *Client) failed(id uint64, err error) {
	for _, run := range c.settling.sent {
		i := slices.IndexFunc(run, func(each settlement) bool { return each.id == id })
		if i < 0 {
			continue
		}
		request := run[i].request
		if status.Code(err) != codes.Unavailable {
			slog.Warn("openlimit: a call was not settled", "reservation", request.ReservationId, "error", err)
			if status.Code(err) == codes.InvalidArgument {
				c.settling.later++
				go c.releaseUnsettled(request)
			}
			return
		}
		c.settling.later++
		time.AfterFunc(settleAgain, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.settling.later--
			c.settle(request)
		})
		return
	}
}

// releaseUnsettled frees the slot of a call whose settlement was refused. Else it would be held until
// its lease ends.
func (c *Client) releaseUnsettled(request *pb.SettleRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), releaseWithin)
	defer cancel()
	_, err := c.Release(ctx, &pb.ReleaseRequest{
		ReservationId: request.ReservationId, Key: request.Key, Labels: request.Labels})
	if err != nil {
		slog.Warn("openlimit: a slot was not freed", "reservation", request.ReservationId, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settling.later--
	signal(c.heard) // Close waits for it
}

// rewind has those sent again that the stream, which has ended, did not acknowledge.
func (s *settlements) rewind() int {
	again := slices.Concat(s.sent...)
	s.unsent = append(again, s.unsent...)
	s.sent, s.settled = nil, 0
	return len(again)
}
