import { randomUUID } from "node:crypto";

import { credentials as secrets, type MethodDefinition } from "@grpc/grpc-js";
import { service as HealthService } from "grpc-health-check";

import { Connection } from "./connection.js";
import { duration } from "./durations.js";
import { LimiterError } from "./errors.js";
import {
  AcquireRequest,
  RateLimitServiceService as Service,
} from "./generated/openlimit/v1/rate_limit.js";
import { Reservation } from "./reservation.js";

// The package has no types for the calls of its service.
const checkHealth = HealthService["Check"] as MethodDefinition<
  { service: string },
  { status: string }
>;

/** What a call costs, and whose it is. */
export interface Call {
  model: string;
  /** The input and the most that the call may write. */
  tokens: number;
  key?: string;
  labels?: Record<string, string>;
  /** Seconds; a call that would have to wait longer is refused. Without it, the server's bound. */
  maxWait?: number;
}

/** Limits the calls of this process together with those of all others that ask the same service. */
export class Limiter {
  readonly #connection: Connection;

  /** Calls go on while the service is away for less than `timeout` seconds. */
  constructor(address: string, { timeout = 5, credentials = secrets.createInsecure() } = {}) {
    this.#connection = new Connection(address, credentials, timeout);
  }

  /**
   * Run the body as soon as the call may start. It settles what the call has used.
   *
   * Fails with a LimiterError if the call is refused, and also if the signal aborts the wait.
   */
  async limit<T>(
    call: Call,
    body: (reservation: Reservation) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const reservation = await this.acquire(call, signal);
    await reservation.start(signal);
    return reservation.run(body);
  }

  /** Reserve a call, which is charged once however often it has to be asked for. */
  async acquire({ maxWait, ...call }: Call, signal?: AbortSignal): Promise<Reservation> {
    const request = AcquireRequest.fromPartial({ ...call, requestId: randomUUID() });
    if (maxWait !== undefined) request.maxWait = duration(maxWait);
    for (let queued = 0; ; queued++) {
      try {
        const granted = await this.#connection.ask(Service.acquire, request, signal);
        return new Reservation(this.#connection, request, granted, queued);
      } catch (error) {
        const ticket = ticketOf(error);
        if (ticket === undefined) throw error;
        request.requestId = ticket; // keeps the call's place in the line
      }
    }
  }

  /** "SERVING" if the service can decide, "NOT_SERVING" if not. */
  async health(): Promise<string> {
    const { status } = await this.#connection.ask(checkHealth, {
      service: "openlimit.v1.RateLimitService",
    });
    return status;
  }

  /** How often a request was sent again, because a server was away. */
  get retries(): number {
    return this.#connection.retries;
  }

  close(): void {
    this.#connection.close();
  }
}

/** The ticket of a call that the service has left waiting in line. */
function ticketOf(error: unknown): string | undefined {
  return error instanceof LimiterError && error.reason === "QUEUED"
    ? error.metadata["ticket"]
    : undefined;
}
