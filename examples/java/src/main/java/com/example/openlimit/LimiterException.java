package com.example.openlimit;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/** The service refused a call, or did not answer in time. A refusal charges nothing. */
public final class LimiterException extends Exception {
  private static final long serialVersionUID = 1L;

  private final Status.Code code;
  private final ErrorInfo info;
  private final Duration retryAfter;

  LimiterException(StatusRuntimeException cause) {
    super(cause.getStatus().getDescription(), cause);
    com.google.rpc.Status status = StatusProto.fromThrowable(cause);
    RetryInfo retry = detail(status, RetryInfo.class, null);
    code = cause.getStatus().getCode();
    info = detail(status, ErrorInfo.class, ErrorInfo.getDefaultInstance());
    retryAfter = retry == null ? null : Durations.of(retry.getRetryDelay());
  }

  public Status.Code code() {
    return code;
  }

  /** What the service says it is, such as "WAIT_TOO_LONG"; empty if the answer is not its own. */
  public String reason() {
    return info.getReason();
  }

  /** Facts about the reason by name, such as "limited_by". */
  public Map<String, String> metadata() {
    return info.getMetadataMap();
  }

  /** When it is worth another try, if the service knows. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  private static <T extends Message> T detail(
      com.google.rpc.Status status, Class<T> kind, T otherwise) {
    try {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(kind)) {
          return detail.unpack(kind);
        }
      }
    } catch (InvalidProtocolBufferException malformed) {
      // Something else than the service has answered: what it says is in the status.
    }
    return otherwise;
  }
}
