// Package openlimit limits calls to LLM APIs together with those of all other processes that ask the
// same service.
package openlimit

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
)

// Service is what a Limiter asks: the generated pb.NewRateLimitServiceClient, or a stream.Client.
type Service interface {
	Acquire(context.Context, *pb.AcquireRequest, ...grpc.CallOption) (*pb.AcquireResponse, error)
	Cancel(context.Context, *pb.CancelRequest, ...grpc.CallOption) (*pb.CancelResponse, error)
	Settle(context.Context, *pb.SettleRequest, ...grpc.CallOption) (*pb.SettleResponse, error)
	Release(context.Context, *pb.ReleaseRequest, ...grpc.CallOption) (*pb.ReleaseResponse, error)
	Renew(context.Context, *pb.RenewRequest, ...grpc.CallOption) (*pb.RenewResponse, error)
}

// Limiter starts each call when its turn has come. Any number of goroutines may use it.
type Limiter struct {
	service Service
}

// New returns a Limiter that asks the service.
func New(service Service) *Limiter { return &Limiter{service} }

// Limit runs the call as soon as it may start, and returns its error. The call settles what it has
// used; if it does not, its whole cost stays charged. Limit returns the service's error if that
// refuses the call, and ctx's error if that ends before the start.
func (l *Limiter) Limit(ctx context.Context, request *pb.AcquireRequest,
	call func(context.Context, *Reservation) error) error {
	reservation, err := l.Acquire(ctx, request)
	if err != nil {
		return err
	}
	if err := reservation.Wait(ctx); err != nil {
		return err
	}
	defer reservation.end()
	return call(ctx, reservation)
}

// Acquire reserves a call, and waits in line for it if need be.
func (l *Limiter) Acquire(ctx context.Context, request *pb.AcquireRequest) (*Reservation, error) {
	request = proto.CloneOf(request) // the caller may use it for the next call
	for queued := 0; ; queued++ {
		granted, err := l.service.Acquire(ctx, request)
		if err == nil {
			return &Reservation{
				ID:        granted.ReservationId,
				Delay:     granted.Wait.AsDuration(),
				LimitedBy: granted.LimitedBy,
				Queued:    queued,
				service:   l.service,
				request:   request,
				start:     time.Now().Add(granted.Wait.AsDuration()),
				lease:     granted.Lease.AsDuration(),
			}, nil
		}
		ticket := TicketOf(err)
		if ticket == "" {
			return nil, err
		}
		request = proto.CloneOf(request)
		request.RequestId = ticket // keeps the call's place in the line, if it is asked at once
	}
}
