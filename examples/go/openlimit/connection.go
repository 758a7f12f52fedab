package openlimit

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "openlimit.example/gen/openlimit/v1"
)

const (
	retryEvery = 100 * time.Millisecond
	// If the address has several servers, each takes a share of the calls.
	allServers = `{"loadBalancingConfig": [{"round_robin": {}}]}`
)

// Connection is a connection to the service that survives restarts of its servers.
type Connection struct {
	*grpc.ClientConn
	timeout time.Duration
	retries atomic.Int64
}

// Dial connects to the service when it is first asked, to all servers that DNS names. Each request takes at most the timeout,
// repeats included, so calls go on while no server is there for less than that. It speaks without TLS
// unless the options say otherwise, such as grpc.WithTransportCredentials.
func Dial(address string, timeout time.Duration, options ...grpc.DialOption) (*Connection, error) {
	connection := &Connection{timeout: timeout}
	again := backoff.Config{BaseDelay: retryEvery, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Without this, gRPC waits for up to two minutes before it connects again.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: timeout}),
		grpc.WithDefaultServiceConfig(allServers),
		// A server that vanished without a goodbye is noticed. It allows a ping every ten seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithChainUnaryInterceptor(connection.repeat),
	}, options...)
	var err error
	connection.ClientConn, err = grpc.NewClient(address, options...)
	return connection, err
}

// Health says "SERVING" if the service can decide, "NOT_SERVING" if not.
func (c *Connection) Health(ctx context.Context) (string, error) {
	asked := &grpc_health_v1.HealthCheckRequest{Service: pb.RateLimitService_ServiceDesc.ServiceName}
	answer, err := grpc_health_v1.NewHealthClient(c).Check(ctx, asked)
	return answer.GetStatus().String(), err
}

// Retries tells how many requests were sent again because a server was away.
func (c *Connection) Retries() int64 { return c.retries.Load() }

// repeat is a grpc.UnaryClientInterceptor. All requests of the service are safe to repeat; an Acquire
// has a request_id, by which it is charged once.
func (c *Connection) repeat(ctx context.Context, method string, request, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if acquire, ok := request.(*pb.AcquireRequest); ok && acquire.RequestId == "" {
		named := proto.CloneOf(acquire)
		named.RequestId = rand.Text()
		request = named
	}
	for {
		err := invoke(ctx, method, request, reply, conn, options...)
		if ctx.Err() != nil || !isAway(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryEvery):
			c.retries.Add(1)
		}
	}
}

// isAway tells whether another server may answer, or this one later. A server that stops cancels the
// requests that reach it in its last moment. A proxy says DEADLINE_EXCEEDED when a request has taken as
// long as the proxy lets it, and INTERNAL when the server went away in the middle of its answer.
func isAway(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal:
		return true
	}
	return false
}
