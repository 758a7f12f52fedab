package stream

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "openlimit.example/gen/openlimit/v1"
	"openlimit.example/openlimit"
)

const (
	mostInMessage = 128
	mostInFlight  = 10_000
	mostGivenUp   = 1000 // in a message; of all of these the server reads 64 KiB
)

// next is a message of what is to be sent, nil for none. It needs the lock, as does all below.
func (c *Client) next() *pb.AcquireStreamRequest {
	wasWaiting := c.inFlight > 0
	told := min(len(c.givenUp), mostGivenUp)
	message := &pb.AcquireStreamRequest{GivenUp: c.givenUp[:told]}
	columns := columns{message: message}
	c.givenUp = c.givenUp[told:]
	count := c.settling.write(message, min(mostInMessage, mostInFlight-c.inFlight))
	for room := min(mostInMessage, mostInFlight-c.inFlight-count); room > 0 && len(c.queue) > 0; {
		asked := c.queue[0]
		c.queue[0], c.queue = nil, c.queue[1:]
		if c.open[asked.id] == asked {
			columns.write(asked)
			asked.isSent = true
			count++
			room--
		}
	}
	if count == 0 && len(message.GivenUp) == 0 {
		return nil
	}
	c.inFlight += count
	if !wasWaiting {
		c.quietSince = time.Now()
	}
	return message
}

// receive delivers what a message of the server tells.
func (c *Client) receive(response *pb.AcquireStreamResponse) {
	c.quietSince = time.Now()
	for _, run := range response.Grants {
		for i, id := range run.Ids {
			if asked := c.open[id]; asked != nil {
				c.deliver(asked, answer{response: granted(run, i)})
			}
		}
	}
	for _, outcome := range response.Outcomes {
		if asked := c.open[outcome.Id]; asked != nil {
			c.outcome(asked, outcome)
		} else if failed := outcome.GetError(); failed != nil {
			c.failed(outcome.Id, status.ErrorProto(failed))
		}
	}
	c.inFlight -= c.settling.acknowledged(response.SettledRuns)
	if len(c.queue)+len(c.settling.unsent) > 0 {
		signal(c.wake) // there is room again
	}
	signal(c.heard)
}

func granted(run *pb.GrantRun, i int) *pb.AcquireResponse {
	grant := &pb.AcquireResponse{ReservationId: run.ReservationIds[i], Lease: run.Lease}
	if run.Scope != "" {
		grant.ReservationId += "/" + run.Scope
	}
	if len(run.WaitMicros) > 0 && run.WaitMicros[i] > 0 {
		grant.Wait = durationpb.New(time.Duration(run.WaitMicros[i]) * time.Microsecond)
		grant.LimitedBy = run.LimitedBy
	}
	return grant
}

// outcome is what came of one operation.
func (c *Client) outcome(asked *operation, outcome *pb.Outcome) {
	switch came := outcome.Outcome.(type) {
	case *pb.Outcome_InLine:
		if !asked.isHeld {
			asked.isHeld, asked.inDoubt = true, false
			c.inFlight--
		}
		asked.ticket = openlimit.TicketOf(status.ErrorProto(came.InLine))
		if asked.isGivenUp { // before it was sent on this stream
			c.tellGivenUp(asked)
		}
	case *pb.Outcome_Error:
		err := status.ErrorProto(came.Error)
		if ticket := openlimit.TicketOf(err); ticket != "" { // its server lets go of it
			asked.ticket, asked.inDoubt = ticket, false
			c.again(asked, 0)
		} else if status.Code(err) == codes.Unavailable {
			asked.inDoubt = true
			c.again(asked, retryEvery)
		} else {
			c.deliver(asked, answer{err: err})
		}
	case *pb.Outcome_Granted:
		c.deliver(asked, answer{response: came.Granted})
	case *pb.Outcome_Cancelled:
		c.deliver(asked, answer{response: came.Cancelled})
	case *pb.Outcome_Released:
		c.deliver(asked, answer{response: came.Released})
	case *pb.Outcome_Renewed:
		c.deliver(asked, answer{response: came.Renewed})
	default:
		err := status.Errorf(codes.Internal, "the server answers %T to operation %d", came, asked.id)
		c.deliver(asked, answer{err: err})
	}
}

// again sends an operation anew after a while, which its server could not decide.
func (c *Client) again(asked *operation, after time.Duration) {
	c.forget(asked)
	if asked.isGivenUp {
		return
	}
	c.open[asked.id] = asked
	if asked.isHeld {
		asked.since = time.Now()
	}
	asked.isSent, asked.isHeld = false, false
	c.retries++
	time.AfterFunc(after, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.enqueue(asked)
	})
}

// deliver ends an operation.
func (c *Client) deliver(asked *operation, came answer) {
	c.forget(asked)
	if !asked.isGivenUp {
		asked.done <- came
	} else if grant, ok := came.response.(*pb.AcquireResponse); ok {
		c.giveBack(asked.acquire, grant)
	}
}

// giveBack returns what was granted to a caller that is gone.
func (c *Client) giveBack(request *pb.AcquireRequest, grant *pb.AcquireResponse) {
	if grant.Wait.AsDuration() > 0 {
		c.add(&operation{alone: &pb.Operation{Operation: &pb.Operation_Cancel{Cancel: &pb.CancelRequest{
			ReservationId: grant.ReservationId, Key: request.Key, Labels: request.Labels}}}})
		return
	}
	units := map[string]int64{"requests": 0}
	for unit := range request.Units {
		units[unit] = 0
	}
	c.settle(&pb.SettleRequest{ReservationId: grant.ReservationId, Key: request.Key,
		Labels: request.Labels, Tokens: new(int64), Units: units})
}
