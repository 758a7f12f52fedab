package com.example.openlimit;

import com.openlimit.v1.AcquireRequest;
import com.openlimit.v1.AcquireResponse;
import com.openlimit.v1.RateLimitServiceGrpc;
import com.openlimit.v1.RateLimitServiceGrpc.RateLimitServiceBlockingStub;
import io.grpc.ManagedChannel;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;

/** Limits the calls of this process together with those of all others that ask the same service. */
public final class Limiter implements AutoCloseable {
  private final Connection connection;
  private final RateLimitServiceBlockingStub service;
  private final ScheduledExecutorService renewals =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task, "openlimit-renewals");
            thread.setDaemon(true);
            return thread;
          });

  /** Calls go on while the service is away for less than {@code timeout}. Owns the channel. */
  public Limiter(ManagedChannel channel, Duration timeout) {
    connection = new Connection(channel, timeout);
    service = RateLimitServiceGrpc.newBlockingStub(channel);
  }

  /**
   * Reserve a call, which is charged once however often it has to be asked for. Blocks while the
   * call is in a line.
   */
  public Reservation acquire(Call call) throws LimiterException, InterruptedException {
    AcquireRequest.Builder request =
        AcquireRequest.newBuilder()
            .setModel(call.model())
            .setTokens(call.tokens())
            .setKey(call.key())
            .putAllLabels(call.labels())
            .setRequestId(UUID.randomUUID().toString());
    if (call.maxWait() != null) {
      request.setMaxWait(Durations.of(call.maxWait()));
    }
    for (int queued = 0; ; queued++) {
      AcquireRequest asked = request.build();
      try {
        AcquireResponse granted = connection.ask(service, stub -> stub.acquire(asked));
        return new Reservation(connection, service, renewals, call, granted, queued);
      } catch (LimiterException error) {
        if (!error.reason().equals("QUEUED")) {
          throw error;
        }
        request.setRequestId(error.metadata().get("ticket")); // keeps the call's place in the line
      }
    }
  }

  /** Whether the service can decide. */
  public boolean isServing() throws LimiterException, InterruptedException {
    HealthCheckRequest request =
        HealthCheckRequest.newBuilder().setService(RateLimitServiceGrpc.SERVICE_NAME).build();
    HealthGrpc.HealthBlockingStub health = HealthGrpc.newBlockingStub(connection.channel());
    return connection.ask(health, stub -> stub.check(request)).getStatus() == ServingStatus.SERVING;
  }

  /** How often a request was sent again, because a server was away. */
  public long retries() {
    return connection.retries();
  }

  @Override
  public void close() {
    renewals.shutdownNow();
    connection.channel().shutdown();
  }
}
