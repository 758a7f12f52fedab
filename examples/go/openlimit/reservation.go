package openlimit

import (
	"context"
	"log/slog"
	"time"

	pb "openlimit.example/gen/openlimit/v1"
)

// Reservation is a call that is charged and may start when its Delay is over. One goroutine uses it.
type Reservation struct {
	ID string
	// Delay is the time from the answer to the start.
	Delay time.Duration
	// LimitedBy is the unit that sets the Delay, "" where there is none.
	LimitedBy string
	// Queued tells how often the call was told to go on waiting in line.
	Queued int

	service Service
	request *pb.AcquireRequest
	start   time.Time
	lease   time.Duration
	stop    context.CancelFunc // nil while there is no slot to keep
}

// Wait sleeps until the start. If ctx ends before that, the reservation is given back, or its slot at
// least if the start comes meanwhile.
func (r *Reservation) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(r.start)):
	}
	if err := ctx.Err(); err != nil {
		r.report("cancel", r.cancel)
		return err
	}
	if r.lease > 0 {
		keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
		r.stop = stop
		go r.keepSlot(keeping)
	}
	return nil
}

// Settle replaces what was reserved by the tokens that the call has used, and frees its slot. It
// tells whether there was something to settle: not so after a restart of a server that has its buckets
// in memory.
func (r *Reservation) Settle(ctx context.Context, tokens int64) (bool, error) {
	answer, err := r.service.Settle(ctx, &pb.SettleRequest{
		ReservationId: r.ID, Key: r.request.Key, Labels: r.request.Labels, Tokens: &tokens})
	if RefusalOf(err).Reason == "UNKNOWN_RESERVATION" {
		err = nil
	}
	if err == nil {
		r.stopKeeping()
	}
	return answer.GetSettled(), err
}

func (r *Reservation) cancel(ctx context.Context) error {
	answer, err := r.service.Cancel(ctx, &pb.CancelRequest{
		ReservationId: r.ID, Key: r.request.Key, Labels: r.request.Labels})
	if err == nil && !answer.Cancelled { // its start has come
		err = r.release(ctx)
	}
	return err
}

// end frees the slot of a call that was not settled, and keeps its charge.
func (r *Reservation) end() {
	if r.stopKeeping() {
		r.report("release", r.release)
	}
}

func (r *Reservation) release(ctx context.Context) error {
	_, err := r.service.Release(ctx, &pb.ReleaseRequest{
		ReservationId: r.ID, Key: r.request.Key, Labels: r.request.Labels})
	return err
}

// keepSlot renews the lease until ctx ends.
func (r *Reservation) keepSlot(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.lease / 3):
		}
		_, err := r.service.Renew(ctx, &pb.RenewRequest{
			ReservationId: r.ID, Key: r.request.Key, Labels: r.request.Labels})
		if err != nil && ctx.Err() == nil {
			// The call goes on, if need be without its slot.
			slog.Warn("openlimit: a lease was not renewed", "reservation", r.ID, "error", err)
		}
	}
}

// stopKeeping tells whether the call held a slot.
func (r *Reservation) stopKeeping() bool {
	if r.stop == nil {
		return false
	}
	r.stop()
	r.stop = nil
	return true
}

// report tells the service what no caller waits for to succeed, also if its own context has ended.
func (r *Reservation) report(what string, tell func(context.Context) error) {
	if err := tell(context.Background()); err != nil {
		slog.Warn("openlimit: could not "+what, "reservation", r.ID, "error", err)
	}
}
