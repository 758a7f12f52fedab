import { type ServiceError, status } from "@grpc/grpc-js";

import { ErrorInfo, RetryInfo } from "./generated/google/rpc/error_details.js";
import { Status } from "./generated/google/rpc/status.js";
import { seconds } from "./durations.js";

/** The service refused a call, or could not be reached in time. Nothing was charged by a refusal. */
export class LimiterError extends Error {
  override readonly name = "LimiterError";
  /** Name of the gRPC code, such as "RESOURCE_EXHAUSTED". */
  readonly code: string;
  /** What the service says it is, such as "WAIT_TOO_LONG"; empty where the answer is not its own. */
  readonly reason: string = "";
  /** Facts about the reason by name, such as "limited_by". */
  readonly metadata: Record<string, string> = {};
  /** Seconds after which it is worth another try, where the service knows. */
  readonly retryAfter: number | undefined;

  constructor(cause: ServiceError) {
    super(cause.details, { cause });
    this.code = status[cause.code] ?? String(cause.code);
    for (const { typeUrl, value } of detailsOf(cause)) {
      if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        ({ reason: this.reason, metadata: this.metadata } = ErrorInfo.decode(value));
      } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
        this.retryAfter = seconds(RetryInfo.decode(value).retryDelay);
      }
    }
  }
}

function detailsOf(error: ServiceError) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  return packed instanceof Uint8Array ? Status.decode(packed).details : [];
}
