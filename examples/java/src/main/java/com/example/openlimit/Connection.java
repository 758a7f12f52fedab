package com.example.openlimit;

import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractBlockingStub;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;

/** A connection that outlives restarts of the server. */
final class Connection {
  private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(50);
  private static final long LONGEST_PAUSE = TimeUnit.SECONDS.toNanos(1);
  // A proxy says DEADLINE_EXCEEDED when a request has taken as long as the proxy lets it, and INTERNAL
  // when the server went away in the middle of its answer.
  private static final Set<Status.Code> OUTAGES =
      EnumSet.of(
          Status.Code.UNAVAILABLE,
          Status.Code.CANCELLED,
          Status.Code.DEADLINE_EXCEEDED,
          Status.Code.INTERNAL);

  private final ManagedChannel channel;
  private final long timeout;
  private final AtomicLong retries = new AtomicLong();

  /** A request is sent again for the time of {@code timeout} while no server answers it. */
  Connection(ManagedChannel channel, Duration timeout) {
    this.channel = channel;
    this.timeout = timeout.toNanos();
  }

  ManagedChannel channel() {
    return channel;
  }

  /** How often a request was sent again, because a server was away. */
  long retries() {
    return retries.get();
  }

  /** The answer to a request, which has to be safe to repeat. Blocks. */
  <S extends AbstractBlockingStub<S>, A> A ask(S stub, Function<S, A> request)
      throws LimiterException, InterruptedException {
    long deadline = System.nanoTime() + timeout;
    for (long longest = FIRST_PAUSE; ; longest = Math.min(2 * longest, LONGEST_PAUSE)) {
      long left = deadline - System.nanoTime();
      try {
        return request.apply(stub.withDeadlineAfter(left, TimeUnit.NANOSECONDS));
      } catch (StatusRuntimeException error) {
        if (Thread.interrupted()) {
          throw new InterruptedException();
        }
        long pause = ThreadLocalRandom.current().nextLong(longest);
        if (!isOutage(error.getStatus()) || System.nanoTime() + pause - deadline > 0) {
          throw new LimiterException(error);
        }
        TimeUnit.NANOSECONDS.sleep(pause);
        channel.resetConnectBackoff(); // by itself, it would look for the server ever more rarely
        retries.incrementAndGet();
      }
    }
  }

  /** Whether to ask again: the server is away or stopping, perhaps in the middle of the call. */
  private static boolean isOutage(Status status) {
    return OUTAGES.contains(status.getCode());
  }
}
