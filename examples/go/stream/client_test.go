package stream_test

import (
	"context"
	"os"
	"strings"
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
