// The load measures how many calls a second a client gets granted: many callers, each of which asks
// again as soon as it is answered.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"slices"
	"sync"
	"time"

	pb "openlimit.example/gen/openlimit/v1"
	"openlimit.example/openlimit"
	"openlimit.example/stream"
)

var (
	address = flag.String("address", "localhost:50051", "of the service")
	model   = flag.String("model", "gpt-4o", "of each call")
	callers = flag.Int("callers", 256, "how many ask at a time")
	lasts   = flag.Duration("for", 3*time.Second, "how long")
	over    = flag.Bool("stream", true, "ask over one stream; false: by a request for each call")
	settles = flag.Bool("settle", false, "settle each call as well")
)

func main() {
	flag.Parse()
	connection, err := openlimit.Dial(*address, 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	var service openlimit.Service = pb.NewRateLimitServiceClient(connection)
	if *over {
		client := stream.New(connection, 5*time.Second)
		defer client.Close(context.Background()) // when all settlements have arrived
		service = client
	}
	var group sync.WaitGroup
	took := make([][]time.Duration, *callers)
	began := time.Now()
	for i := range took {
		group.Go(func() { took[i] = call(service, began.Add(*lasts)) })
	}
	group.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	fmt.Printf(`{"callers":%d,"granted":%d,"per_second":%.0f,"p50_ms":%.2f,"p99_ms":%.2f}`+"\n", *callers,
		len(all), float64(len(all))/time.Since(began).Seconds(),
		all[len(all)/2].Seconds()*1e3, all[len(all)*99/100].Seconds()*1e3)
}

// call asks until then, and tells how long each answer took.
func call(service openlimit.Service, until time.Time) []time.Duration {
	var took []time.Duration
	request := &pb.AcquireRequest{Model: *model, Tokens: 100}
	used := int64(40)
	for asked := time.Now(); asked.Before(until); asked = time.Now() {
		granted, err := service.Acquire(context.Background(), request)
		if err != nil {
			log.Fatal(err)
		}
		if *settles {
			settle := &pb.SettleRequest{ReservationId: granted.ReservationId, Tokens: &used}
			if _, err := service.Settle(context.Background(), settle); err != nil {
				log.Fatal(err)
			}
		}
		took = append(took, time.Since(asked))
	}
	return took
}
