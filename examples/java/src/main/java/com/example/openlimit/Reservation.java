package com.example.openlimit;

import com.openlimit.v1.AcquireResponse;
import com.openlimit.v1.CancelRequest;
import com.openlimit.v1.RateLimitServiceGrpc.RateLimitServiceBlockingStub;
import com.openlimit.v1.ReleaseRequest;
import com.openlimit.v1.RenewRequest;
import com.openlimit.v1.SettleRequest;
import java.time.Duration;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * A call that the service has granted. Closed before its start, it gives back what was charged;
 * closed later without having settled, it frees its slot. For one thread.
 */
public final class Reservation implements AutoCloseable {
  private final Connection connection;
  private final RateLimitServiceBlockingStub service;
  private final ScheduledExecutorService scheduler;
  private final Call call;
  private final AcquireResponse granted;
  private final int queued;
  private final long startsAt;
  private ScheduledFuture<?> renewals;
  private boolean hasStarted;
  private boolean hasEnded;

  Reservation(
      Connection connection,
      RateLimitServiceBlockingStub service,
      ScheduledExecutorService scheduler,
      Call call,
      AcquireResponse granted,
      int queued) {
    this.connection = connection;
    this.service = service;
    this.scheduler = scheduler;
    this.call = call;
    this.granted = granted;
    this.queued = queued;
    startsAt = System.nanoTime() + waiting().toNanos();
  }

  /** The service's name for it. */
  public String id() {
    return granted.getReservationId();
  }

  /** Time from the answer until the call may start. */
  public Duration waiting() {
    return Durations.of(granted.getWait());
  }

  /** The unit that sets the wait, such as "tokens"; empty if the call may start at once. */
  public String limitedBy() {
    return granted.getLimitedBy();
  }

  /** How often the service answered meanwhile that the call is still in line. */
  public int queued() {
    return queued;
  }

  /** Sleep until the call may start. From then on, its slot is renewed if it needs one. */
  public void start() throws InterruptedException {
    TimeUnit.NANOSECONDS.sleep(startsAt - System.nanoTime());
    hasStarted = true;
    if (granted.hasLease()) {
      long third = Durations.of(granted.getLease()).toNanos() / 3;
      renewals = scheduler.scheduleWithFixedDelay(this::renew, third, third, TimeUnit.NANOSECONDS);
    }
  }

  /**
   * Replace the tokens that were reserved by those that were used.
   *
   * @return false if there was nothing to settle, as after a restart of a server that has its
   *     buckets in memory
   */
  public boolean settle(long tokens) throws LimiterException, InterruptedException {
    SettleRequest request =
        SettleRequest.newBuilder()
            .setReservationId(id())
            .setKey(call.key())
            .putAllLabels(call.labels())
            .setTokens(tokens)
            .build();
    try {
      return end(stub -> stub.settle(request)).getSettled();
    } catch (LimiterException error) {
      if (error.reason().equals("UNKNOWN_RESERVATION")) {
        return false;
      }
      throw error;
    }
  }

  @Override
  public void close() {
    if (hasEnded) {
      return;
    }
    try {
      if (hasStarted) {
        release();
      } else {
        cancel();
      }
    } catch (LimiterException lost) {
      // What came of the call matters more. The slot is freed when its lease ends.
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private void release() throws LimiterException, InterruptedException {
    ReleaseRequest request =
        ReleaseRequest.newBuilder()
            .setReservationId(id())
            .setKey(call.key())
            .putAllLabels(call.labels())
            .build();
    end(stub -> stub.release(request));
  }

  private void cancel() throws LimiterException, InterruptedException {
    CancelRequest request =
        CancelRequest.newBuilder()
            .setReservationId(id())
            .setKey(call.key())
            .putAllLabels(call.labels())
            .build();
    if (!end(stub -> stub.cancel(request)).getCancelled()) {
      release(); // its start has come
    }
  }

  private <A> A end(Function<RateLimitServiceBlockingStub, A> request)
      throws LimiterException, InterruptedException {
    if (renewals != null) {
      renewals.cancel(false);
    }
    A answer = connection.ask(service, request);
    hasEnded = true; // what could not be settled frees its slot at least
    return answer;
  }

  private void renew() {
    RenewRequest request =
        RenewRequest.newBuilder()
            .setReservationId(id())
            .setKey(call.key())
            .putAllLabels(call.labels())
            .build();
    try {
      connection.ask(service, stub -> stub.renew(request));
    } catch (LimiterException lost) {
      // The call goes on without its slot all the same, and the next renewal may find a free one.
    } catch (InterruptedException closed) {
      Thread.currentThread().interrupt();
    }
  }
}
