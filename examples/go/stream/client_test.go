package stream_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "openlimit.example/gen/openlimit/v1"
	"openlimit.example/openlimit"
	"openlimit.example/stream"
)

// client asks the server at OPENLIMIT_ADDRESS, which has a policy for gpt-4o, and one for line that
// lets one call run at a time.
func client(t *testing.T) *stream.Client {
	address := os.Getenv("OPENLIMIT_ADDRESS")
	if address == "" {
		t.Fatal("set OPENLIMIT_ADDRESS to the address of a server")
	}
	connection, err := openlimit.Dial(address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	client := stream.New(connection, 5*time.Second)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := client.Close(ctx); err != nil {
			t.Error("not all was answered:", err)
		}
		connection.Close()
	})
	return client
}

func acquire(t *testing.T, client *stream.Client, model string) *pb.AcquireResponse {
	granted, err := client.Acquire(t.Context(), &pb.AcquireRequest{Model: model, Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

func settle(t *testing.T, client *stream.Client, granted *pb.AcquireResponse) {
	if _, err := client.Settle(t.Context(), &pb.SettleRequest{ReservationId: granted.ReservationId}); err != nil {
		t.Error(err)
	}
}

// A call whose caller gives up leaves the line, so that the next one takes the slot.
func TestGivingUpLeavesTheLine(t *testing.T) {
	client := client(t)
	first := acquire(t, client, "line")
	impatient, cancel := context.WithTimeout(t.Context(), time.Second) // it is told that it is held
	defer cancel()
	_, err := client.Acquire(impatient, &pb.AcquireRequest{Model: "line", Tokens: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the caller that gave up was told %v", err)
	}
	settle(t, client, first)
	began := time.Now()
	settle(t, client, acquire(t, client, "line"))
	if waited := time.Since(began); waited > 2*time.Second {
		t.Errorf("the slot was lost to a call that nobody waits for: %v", waited)
	}
}

// A body, which columns have no place for, is not charged as a call without tokens.
func TestABodyIsRefused(t *testing.T) {
	_, err := client(t).Acquire(t.Context(), &pb.AcquireRequest{Model: "gpt-4o", Body: []byte(`{"messages": []}`)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a call with a body was answered %v", err)
	}
}

// What cannot be sent is refused, and the stream carries the calls of others on.
func TestAnInvalidCallHarmsNoOther(t *testing.T) {
	client := client(t)
	for _, model := range []string{"\xff", strings.Repeat("x", 1<<21), strings.Repeat("x", 300)} {
		_, err := client.Acquire(t.Context(), &pb.AcquireRequest{Model: model})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("a model of %d bytes was answered %v", len(model), err)
		}
		settle(t, client, acquire(t, client, "gpt-4o"))
	}
}

// More units than a server takes, and tokens among them, are refused, of settlements too.
func TestWrongUnitsHarmNoOther(t *testing.T) {
	client := client(t)
	many := map[string]int64{}
	for i := range 400 {
		many[fmt.Sprintf("u%d", i)] = 1 << 60
	}
	var refused sync.WaitGroup
	for i := range 200 { // enough that one run of all is too large
		units := []map[string]int64{many, {"tokens": 1}}[i%2]
		refused.Go(func() {
			_, err := client.Acquire(t.Context(), &pb.AcquireRequest{Model: "gpt-4o", Units: units})
			_, unsettled := client.Settle(t.Context(), &pb.SettleRequest{ReservationId: "a/b", Units: units})
			if status.Code(err) != codes.InvalidArgument || status.Code(unsettled) != codes.InvalidArgument {
				t.Errorf("wrong units were answered %v and %v", err, unsettled)
			}
		})
	}
	refused.Wait()
	settle(t, client, acquire(t, client, "gpt-4o"))
}

// A call whose caller leaves before it begins keeps no slot.
func TestACallThatDoesNotBeginFreesItsSlot(t *testing.T) {
	client := client(t)
	reservation, err := openlimit.New(client).Acquire(t.Context(), &pb.AcquireRequest{Model: "line"})
	if err != nil {
		t.Fatal(err)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if err := reservation.Wait(left); err != context.Canceled {
		t.Errorf("the wait ended with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	next, err := client.Acquire(ctx, &pb.AcquireRequest{Model: "line"})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, client, next)
}

// A request may be changed for the next call while the settlement of the last is on its way.
func TestARequestMayBeUsedAgain(t *testing.T) {
	limiter := openlimit.New(client(t))
	request := &pb.AcquireRequest{Model: "gpt-4o", Tokens: 1, Labels: map[string]string{}}
	for i := range 200 {
		request.Labels["run"] = fmt.Sprint(i)
		err := limiter.Limit(t.Context(), request, func(ctx context.Context, r *openlimit.Reservation) error {
			_, err := r.Settle(ctx, 1)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The settlement of more than any call can cost is refused, and the next call need not wait until the
// lease ends.
func TestARefusedSettlementFreesTheSlot(t *testing.T) {
	client := client(t)
	absurd := int64(500)
	request := &pb.SettleRequest{ReservationId: acquire(t, client, "both").ReservationId, Tokens: &absurd}
	if _, err := client.Settle(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	next, err := client.Acquire(ctx, &pb.AcquireRequest{Model: "both", Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, client, next)
}

// Settlements of what is no reservation are refused, however long they are, and the stream goes on.
func TestLongSettlementsHarmNoOther(t *testing.T) {
	client := client(t)
	for range 300 {
		nothing := &pb.SettleRequest{ReservationId: strings.Repeat("x", 1000)}
		if _, err := client.Settle(t.Context(), nothing); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, client, acquire(t, client, "gpt-4o"))
}

// A settlement without an answer and a call without a policy are told from those beside them.
func TestErrorsReachTheirCallers(t *testing.T) {
	client := client(t)
	if _, err := client.Settle(t.Context(), &pb.SettleRequest{ReservationId: "unknown/unknown"}); err != nil {
		t.Error(err)
	}
	_, err := client.Acquire(t.Context(), &pb.AcquireRequest{Model: "nobody"})
	if reason := openlimit.RefusalOf(err).Reason; reason != "UNKNOWN_MODEL" {
		t.Errorf("a model without a policy was answered %v", err)
	}
	settle(t, client, acquire(t, client, "gpt-4o"))
}
