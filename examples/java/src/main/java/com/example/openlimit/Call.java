package com.example.openlimit;

import java.time.Duration;
import java.util.Map;

/**
 * What a call costs, and whose it is.
 *
 * @param tokens the input and the most that the call may write
 * @param maxWait a call that would have to wait longer is refused
 */
public record Call(
    String model, long tokens, String key, Map<String, String> labels, Duration maxWait) {}
