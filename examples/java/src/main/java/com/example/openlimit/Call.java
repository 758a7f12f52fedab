package com.example.openlimit;

import java.time.Duration;
import java.util.Map;

/**
 * What a call costs, and whose it is.
 *
 * @param tokens the input and the most that the call may write
 * @param key the tenant, empty for none
 * @param maxWait a call that would have to wait longer is refused; null for the server's bound
 */
public record Call(
    String model, long tokens, String key, Map<String, String> labels, Duration maxWait) {
  /** The labels are copied. */
  public Call {
    labels = Map.copyOf(labels);
  }

  /** Nobody's in particular, which waits as long as the server allows. */
  public Call(String model, long tokens) {
    this(model, tokens, "", Map.of(), null);
  }
}
