// Package stream asks the service over one AcquireStream, by far the fastest way from a process that
// makes many calls at a time. docs/stream.md describes the protocol.
//
// What is asked while a message is on its way makes up the next one: no timer and no fixed size, so a
// lone caller waits for nobody, and the more callers there are, the less each of them costs. Where a
// stream breaks off, what it has not answered goes out again on the next one, under the same names, so
// that it is charged once.
package stream

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
)

const (
	retryEvery = 100 * time.Millisecond
	// Bytes that a request takes at most. The longest names fit, and mostInMessage of them are less
	// than the megabyte that the server takes.
	mostBytes = 8000
	// As many as the server takes, so that a run of 128 calls is not too large for it.
	mostUnits = 16
)

// Client is an openlimit.Service. Any number of goroutines may use it; Close it when they are done.
// A request that was handed over may be sent later, so leave it as it is.
type Client struct {
	service  pb.RateLimitServiceClient
	timeout  time.Duration
	wake     chan struct{} // there may be something to send
	heard    chan struct{} // something was answered, for Close
	answered chan struct{} // likewise, for the sender
	stop     context.CancelFunc

	mu         sync.Mutex
	lastID     uint64
	open       map[uint64]*operation // not answered yet, by their ids
	queue      []*operation          // to be sent, unless they are open no more
	givenUp    []uint64              // to be told
	settling   settlements
	inFlight   int       // sent, and neither answered nor held in line
	quietSince time.Time // nothing was heard since, or nothing was waited for until then
	leave      context.CancelFunc
	retries    int64
	isClosed   bool
}

// New returns a client that connects when it is first asked. An operation that is not answered
// within the timeout fails as UNAVAILABLE; a call that the server holds in line has no such bound.
func New(connection grpc.ClientConnInterface, timeout time.Duration) *Client {
	ctx, stop := context.WithCancel(context.Background())
	client := &Client{
		service:  pb.NewRateLimitServiceClient(connection),
		timeout:  timeout,
		wake:     make(chan struct{}, 1),
		heard:    make(chan struct{}, 1),
		stop:     stop,
		answered: make(chan struct{}, 1),
		open:     map[uint64]*operation{},
		leave:    func() {},
	}
	go client.run(ctx)
	go client.watch(ctx)
	return client
}

// Acquire returns once the call is granted or refused. It waits in line for as long as that takes;
// if ctx ends before, the call gives up its place.
func (c *Client) Acquire(ctx context.Context, request *pb.AcquireRequest, _ ...grpc.CallOption) (*pb.AcquireResponse, error) {
	if len(request.Body) > 0 {
		return nil, status.Error(codes.InvalidArgument,
			"a stream takes no body; have CountTokens count it, and give tokens instead")
	}
	return ask[*pb.AcquireResponse](ctx, c, &operation{acquire: request}, request)
}

// Settle hands the settlement over and returns: no caller waits for it. It is sent until the server
// has heard it, so that Settled says only that it is on its way.
func (c *Client) Settle(_ context.Context, request *pb.SettleRequest, _ ...grpc.CallOption) (*pb.SettleResponse, error) {
	if err := check(request); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return nil, errClosed
	}
	c.settle(request)
	return &pb.SettleResponse{Settled: true}, nil
}

// Cancel is as that of the generated client.
func (c *Client) Cancel(ctx context.Context, request *pb.CancelRequest, _ ...grpc.CallOption) (*pb.CancelResponse, error) {
	alone := &pb.Operation{Operation: &pb.Operation_Cancel{Cancel: request}}
	return ask[*pb.CancelResponse](ctx, c, &operation{alone: alone}, request)
}

// Release is as that of the generated client.
func (c *Client) Release(ctx context.Context, request *pb.ReleaseRequest, _ ...grpc.CallOption) (*pb.ReleaseResponse, error) {
	alone := &pb.Operation{Operation: &pb.Operation_Release{Release: request}}
	return ask[*pb.ReleaseResponse](ctx, c, &operation{alone: alone}, request)
}

// Renew is as that of the generated client.
func (c *Client) Renew(ctx context.Context, request *pb.RenewRequest, _ ...grpc.CallOption) (*pb.RenewResponse, error) {
	alone := &pb.Operation{Operation: &pb.Operation_Renew{Renew: request}}
	return ask[*pb.RenewResponse](ctx, c, &operation{alone: alone}, request)
}

// Retries tells how many operations were sent again because a server was away.
func (c *Client) Retries() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retries
}

// Close returns when everything is answered, or with ctx's error when that ends. Whatever is left then,
// or asked later, fails as CANCELLED.
func (c *Client) Close(ctx context.Context) error {
	defer c.end()
	for !c.isIdle() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.heard:
		}
	}
	return nil
}

var errClosed = status.Error(codes.Canceled, "the client is closed")

func (c *Client) end() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isClosed = true
	for _, each := range c.open {
		c.deliver(each, answer{err: errClosed})
	}
}

func (c *Client) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) == 0 && c.settling.isIdle()
}

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
	wasSent   bool   // on any
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

// mayBeGranted tells whether a server may have charged it, if only one whose stream has ended. What has
// a ticket from there was in line; its place is lost if nobody asks for it again.
func (o *operation) mayBeGranted() bool {
	return o.acquire != nil && (o.isSent || o.wasSent && o.ticket == "")
}

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
