package stream_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
	"openlimit.example/stream"
)

// server is one that the test plays: it takes each stream, each of its messages, and answers.
type server struct {
	grpc.ClientConnInterface
	streams chan *served
}

type served struct {
	grpc.ClientStream
	ctx     context.Context
	sent    chan *pb.AcquireStreamRequest
	answers chan *pb.AcquireStreamResponse
	ended   chan error
}

func (s *server) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	opened := &served{ctx: ctx, sent: make(chan *pb.AcquireStreamRequest),
		answers: make(chan *pb.AcquireStreamResponse), ended: make(chan error)}
	select {
	case s.streams <- opened:
		return opened, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *served) SendMsg(message any) error {
	select {
	case s.sent <- message.(*pb.AcquireStreamRequest):
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *served) RecvMsg(message any) error {
	select {
	case answer := <-s.answers:
		proto.Merge(message.(proto.Message), answer)
		return nil
	case err := <-s.ended:
		return err
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *served) tellInLine(ids []uint64) {
	info := &errdetails.ErrorInfo{Reason: "QUEUED", Metadata: map[string]string{"ticket": "its ticket"}}
	queued, err := status.New(codes.ResourceExhausted, "in line").WithDetails(info)
	if err != nil {
		panic(err)
	}
	told := &pb.AcquireStreamResponse{}
	for _, id := range ids {
		inLine := &pb.Outcome_InLine{InLine: queued.Proto()}
		told.Outcomes = append(told.Outcomes, &pb.Outcome{Id: id, Outcome: inLine})
	}
	s.answers <- told
}

// beat tells the client that the server is alive, until the stream ends.
func (s *served) beat() {
	for {
		select {
		case s.answers <- &pb.AcquireStreamResponse{}:
			time.Sleep(100 * time.Millisecond)
		case <-s.ctx.Done():
			return
		}
	}
}

func play() (*server, *stream.Client) {
	played := &server{streams: make(chan *served)}
	return played, stream.New(played, time.Minute)
}

// call has one caller ask, who leaves when the context ends.
func call(ctx context.Context, client *stream.Client) chan error {
	left := make(chan error, 1)
	go func() {
		_, err := client.Acquire(ctx, &pb.AcquireRequest{Model: "gpt-4o", Tokens: 7})
		left <- err
	}()
	return left
}

// lose ends a stream, and the client notices.
func lose(client *stream.Client, lost *served) {
	before := client.Retries()
	lost.ended <- status.Error(codes.Unavailable, "the proxy ends it")
	for client.Retries() == before {
		time.Sleep(time.Millisecond)
	}
}

func leave(t *testing.T, cancel context.CancelFunc, left chan error) {
	cancel()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Errorf("the caller that left was told %v", err)
	}
}

// What a lost stream may have granted to a caller that has left is asked for again, and given back.
func TestAGrantOfALostStreamIsGivenBack(t *testing.T) {
	played, client := play()
	defer client.Close(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	left := call(ctx, client)
	first := <-played.streams
	run := (<-first.sent).Runs[0]
	lose(client, first)
	leave(t, cancel, left)
	next := <-played.streams
	again := (<-next.sent).Runs[0]
	if again.RequestId != run.RequestId {
		t.Errorf("the run %s was sent again as %s", run.RequestId, again.RequestId)
	}
	next.answers <- &pb.AcquireStreamResponse{Grants: []*pb.GrantRun{
		{Ids: again.Ids, ReservationIds: []string{"1f.1"}, Scope: "all"}}}
	settled := (<-next.sent).Settlements[0]
	if settled.ReservationIds[0] != "1f.1" || settled.Costs[0] != 0 {
		t.Errorf("the grant was settled by %v", settled)
	}
	next.answers <- &pb.AcquireStreamResponse{SettledRuns: 1}
}

// One that was in line, and may have been granted to its ticket, is asked for again by it; where it is
// in line again, it is given up.
func TestACallOfALostStreamLeavesTheLine(t *testing.T) {
	played, client := play()
	defer client.Close(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	left := call(ctx, client)
	first := <-played.streams
	ids := (<-first.sent).Runs[0].Ids
	first.tellInLine(ids)
	lose(client, first)
	second := <-played.streams
	<-second.sent
	lose(client, second)
	leave(t, cancel, left)
	third := <-played.streams
	if asked := (<-third.sent).Operations[0]; asked.GetAcquire().RequestId != "its ticket" {
		t.Errorf("the call was asked for by %v", asked)
	}
	third.tellInLine(ids)
	if told := (<-third.sent).GivenUp; len(told) != 1 || told[0] != ids[0] {
		t.Errorf("the server was told of %v", told)
	}
	third.answers <- &pb.AcquireStreamResponse{Outcomes: []*pb.Outcome{{Id: ids[0],
		Outcome: &pb.Outcome_Error{Error: status.New(codes.Canceled, "given up").Proto()}}}}
}

// A server ends a stream that gives up too many at once.
func TestManyGiveUpAFewAtATime(t *testing.T) {
	const callers = 30_000
	played, client := play()
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range callers {
		waiting.Go(func() { client.Acquire(ctx, &pb.AcquireRequest{Model: "gpt-4o"}) })
	}
	only := <-played.streams
	go only.beat()
	for held := 0; held < callers; {
		for _, run := range (<-only.sent).Runs {
			only.tellInLine(run.Ids)
			held += len(run.Ids)
		}
	}
	cancel()
	waiting.Wait()
	for told := 0; told < callers; {
		message := <-only.sent
		told += len(message.GivenUp)
		if size := proto.Size(message); size > 64<<10 {
			t.Fatalf("a message of %d bytes gives up %d", size, len(message.GivenUp))
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	client.Close(ctx)
}

// Whoever still waits when the client is closed, or asks later, is told so.
func TestClosingAnswersAllThatAreLeft(t *testing.T) {
	played, client := play()
	left := call(context.Background(), client)
	<-(<-played.streams).sent
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := client.Close(ctx); err != context.Canceled {
		t.Errorf("closing ended with %v", err)
	}
	_, asked := client.Acquire(t.Context(), &pb.AcquireRequest{Model: "gpt-4o"})
	_, settled := client.Settle(t.Context(), &pb.SettleRequest{ReservationId: "1f.1/all"})
	for _, err := range []error{<-left, asked, settled} {
		if status.Code(err) != codes.Canceled {
			t.Errorf("a caller was told %v", err)
		}
	}
}
