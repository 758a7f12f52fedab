// The client makes some calls, each when the service lets it start, and prints what comes of them, one
// JSON object a line.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "openlimit.example/gen/openlimit/v1"
	"openlimit.example/openlimit"
	"openlimit.example/stream"
)

var (
	address = flag.String("address", "localhost:50051", "of the service")
	model   = flag.String("model", "gpt-4o", "of each call")
	tokens  = flag.Int64("tokens", 100, "that each call reserves")
	used    = flag.Int64("used", 40, "tokens that each call has used")
	label   = flag.String("label", "", "of each call, such as team=search")
	maxWait = flag.Float64("max-wait", 30, "the longest wait that is accepted, in seconds")
	timeout = flag.Float64("timeout", 5, "for how many seconds the service may be away")
	calls   = flag.Int("calls", 1, "how many")
	work    = flag.Float64("work", 0.05, "how many seconds each call takes")
	over    = flag.Bool("stream", false, "ask over one stream, the fastest way for many calls at a time")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		if _, refused := status.FromError(err); !refused {
			fmt.Fprintln(os.Stderr, err)
		} else {
			printRefusal(openlimit.RefusalOf(err))
		}
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	connection, err := openlimit.Dial(*address, seconds(*timeout))
	if err != nil {
		return err
	}
	defer connection.Close()
	health, err := connection.Health(ctx)
	if err != nil {
		return err
	}
	printLine("health", "status", health)

	var service openlimit.Service = pb.NewRateLimitServiceClient(connection)
	retries := connection.Retries
	if *over {
		client := stream.New(connection, seconds(*timeout))
		defer closeWithin(client, seconds(*timeout))
		service, retries = client, client.Retries
	}
	limiter := openlimit.New(service)
	request := &pb.AcquireRequest{
		Model: *model, Tokens: *tokens, MaxWait: durationpb.New(seconds(*maxWait))}
	if name, value, given := strings.Cut(*label, "="); given {
		request.Labels = map[string]string{name: value}
	}
	for range *calls {
		err := limiter.Limit(ctx, request, func(ctx context.Context, r *openlimit.Reservation) error {
			printLine("granted", "reservation", r.ID, "wait", r.Delay.Seconds(), "limited_by",
				r.LimitedBy, "queued", r.Queued, "retries", retries())
			time.Sleep(seconds(*work)) // the call to the provider
			settled, err := r.Settle(ctx, *used)
			if err != nil {
				return err
			}
			printLine("settled", "reservation", r.ID, "settled", settled, "retries", retries())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// closeWithin lets the last settlements arrive.
func closeWithin(client *stream.Client, most time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	if err := client.Close(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "not all settlements have arrived:", err)
	}
}

func printRefusal(refusal openlimit.Refusal) {
	if refusal.Metadata == nil {
		refusal.Metadata = map[string]string{}
	}
	var retryAfter any
	if refusal.RetryAfter != nil {
		retryAfter = refusal.RetryAfter.Seconds()
	}
	printLine("refused", "code", code.Code(refusal.Code).String(), "reason", refusal.Reason, "metadata",
		refusal.Metadata, "retry_after", retryAfter, "message", refusal.Message)
}

// printLine prints an event with its names and values.
func printLine(event string, pairs ...any) {
	line := map[string]any{"event": event}
	for i := 0; i < len(pairs); i += 2 {
		line[pairs[i].(string)] = pairs[i+1]
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }
