package com.example.openlimit;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.time.Duration;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Makes a few calls and prints what happens to them, as JSON. */
public final class Main {
  private static final Gson GSON = new GsonBuilder().serializeNulls().create();

  private Main() {}

  public static void main(String[] arguments) throws InterruptedException {
    Map<String, String> options = options(arguments);
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(options.getOrDefault("--address", "localhost:50051"))
            .usePlaintext()
            .defaultLoadBalancingPolicy("round_robin") // each of several servers takes a share
            // A server that vanished without a goodbye is noticed. It allows a ping every 10 s.
            .keepAliveTime(20, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS)
            .build();
    Duration timeout = seconds(options.getOrDefault("--timeout", "5"));
    try (Limiter limiter = new Limiter(channel, timeout)) {
      makeCalls(limiter, options);
    } catch (LimiterException error) {
      print(
          "refused",
          facts(
              "code", error.code().name(),
              "reason", error.reason(),
              "metadata", error.metadata(),
              "retry_after", error.retryAfter().map(Main::seconds).orElse(null),
              "message", error.getMessage()));
      System.exit(1);
    }
  }

  private static void makeCalls(Limiter limiter, Map<String, String> options)
      throws LimiterException, InterruptedException {
    Call call =
        new Call(
            options.getOrDefault("--model", "gpt-4o"),
            Long.parseLong(options.getOrDefault("--tokens", "100")),
            "",
            labels(options.get("--label")),
            seconds(options.getOrDefault("--max-wait", "30")));
    long used = Long.parseLong(options.getOrDefault("--used", "40"));
    Duration work = seconds(options.getOrDefault("--work", "0.05"));

    print("health", facts("status", limiter.isServing() ? "SERVING" : "NOT_SERVING"));
    for (int left = Integer.parseInt(options.getOrDefault("--calls", "1")); left > 0; left--) {
      try (Reservation reservation = limiter.acquire(call)) {
        reservation.start();
        print(
            "granted",
            facts(
                "reservation", reservation.id(),
                "wait", seconds(reservation.waiting()),
                "limited_by", reservation.limitedBy(),
                "queued", reservation.queued(),
                "retries", limiter.retries()));
        Thread.sleep(work.toMillis()); // here the API is called
        boolean settled = reservation.settle(used);
        print(
            "settled",
            facts(
                "reservation", reservation.id(),
                "settled", settled,
                "retries", limiter.retries()));
      }
    }
  }

  private static Map<String, String> options(String[] arguments) {
    Map<String, String> options = new HashMap<>();
    for (int i = 0; i + 1 < arguments.length; i += 2) {
      options.put(arguments[i], arguments[i + 1]);
    }
    return options;
  }

  private static Map<String, String> labels(String label) {
    if (label == null) {
      return Map.of();
    }
    String[] named = label.split("=", 2);
    return Map.of(named[0], named[1]);
  }

  private static Duration seconds(String text) {
    return Duration.ofNanos(Math.round(Double.parseDouble(text) * 1e9));
  }

  private static double seconds(Duration duration) {
    return duration.toNanos() / 1e9;
  }

  private static Map<String, Object> facts(Object... namesAndValues) {
    Map<String, Object> facts = new LinkedHashMap<>();
    for (int i = 0; i < namesAndValues.length; i += 2) {
      facts.put((String) namesAndValues[i], namesAndValues[i + 1]);
    }
    return facts;
  }

  private static void print(String event, Map<String, Object> facts) {
    facts.put("event", event);
    System.out.println(GSON.toJson(facts));
  }
}
