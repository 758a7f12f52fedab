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

	pb "openlimit.example/gen/openlimit/v1"
)

const retryEvery = 100 * time.Millisecond

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
