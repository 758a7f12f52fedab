package stream

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "openlimit.example/gen/openlimit/v1"
)

// A server that has not answered for so long, though something is in flight or held, is left.
const silent = 4 * time.Second

// What is asked before the server has said anything since the last message makes up the next one:
// gRPC does not tell when a message is out. It is sent after this long anyway, since a server is silent
// about calls that wait in line.
const longestCollecting = time.Millisecond

// run opens a stream whenever there is something to send, until ctx ends.
func (c *Client) run(ctx context.Context) {
	ctx = metadata.AppendToOutgoingContext(ctx, "openlimit-timeout", fmt.Sprint(c.timeout.Seconds()))
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			signal(c.wake) // for the stream
		}
		opened := time.Now()
		c.rewind(c.carry(ctx))
		if time.Since(opened) < retryEvery {
			time.Sleep(retryEvery)
		}
	}
}

// carry opens a stream and returns the error that has ended it.
func (c *Client) carry(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.service.AcquireStream(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.leave, c.quietSince = cancel, time.Now()
	c.mu.Unlock()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.send(ctx, stream)
	}()
	for {
		response, err := stream.Recv()
		if err != nil {
			cancel()
			<-sent
			return err
		}
		c.mu.Lock()
		c.receive(response)
		c.mu.Unlock()
		signal(c.answered)
	}
}

// send sends what there is, many operations a message, until the stream ends.
func (c *Client) send(ctx context.Context, stream pb.RateLimitService_AcquireStreamClient) {
	isCollecting := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		if isCollecting {
			select {
			case <-ctx.Done():
				return
			case <-c.answered:
			case <-time.After(longestCollecting):
			}
		}
		runtime.Gosched() // those who were answered may ask again
		c.mu.Lock()
		message := c.next()
		c.mu.Unlock()
		isCollecting = message != nil
		if message == nil {
			continue
		}
		select {
		case <-c.answered: // before this message
		default:
		}
		if stream.Send(message) != nil {
			return // Recv tells why
		}
		signal(c.wake)
	}
}

// rewind has everything sent again that the stream, which has ended, did not answer.
func (c *Client) rewind(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var again []*operation
	for _, each := range c.open {
		switch {
		case isFinal(reason):
			c.deliver(each, answer{err: reason})
		case each.isGivenUp && (each.isHeld || time.Since(each.since) > 2*c.timeout): // as do servers
			c.forget(each)
		case each.isSent:
			again = append(again, each)
		}
	}
	for _, each := range again {
		if each.isHeld { // its place is kept for three seconds
			each.since = time.Now()
		} else {
			each.inDoubt = true
		}
		each.isSent, each.isHeld = false, false
	}
	c.retries += int64(len(again) + c.settling.rewind())
	slices.SortFunc(again, func(a, b *operation) int { return cmp.Compare(a.id, b.id) })
	c.queue = append(again, c.queue...)
	c.givenUp, c.inFlight = nil, 0
	if len(c.queue)+len(c.settling.unsent) > 0 {
		signal(c.wake)
	}
}

// isFinal tells whether no other stream can do better.
func isFinal(reason error) bool {
	if reason == io.EOF {
		return false
	}
	switch status.Code(reason) {
	case codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return true
	}
	return false
}

// watch leaves a silent server, and fails operations whose time is up.
func (c *Client) watch(ctx context.Context) {
	ticks := time.NewTicker(max(10*time.Millisecond, min(c.timeout/16, time.Second/2)))
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			c.look()
		}
	}
}

func (c *Client) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	isWaiting := c.inFlight > 0
	for _, each := range c.open {
		isWaiting = isWaiting || each.isHeld
		if each.isHeld || each.isGivenUp || time.Since(each.since) < c.timeout {
			continue
		}
		away := status.Errorf(codes.Unavailable, "no answer for %v", c.timeout)
		if each.mayBeGranted() { // and has to be given back then
			each.isGivenUp = true
			each.done <- answer{err: away}
		} else {
			c.deliver(each, answer{err: away})
		}
	}
	if isWaiting && time.Since(c.quietSince) > silent {
		c.leave()
	}
}
