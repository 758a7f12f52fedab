import { setTimeout as sleep } from "node:timers/promises";

import type { MethodDefinition } from "@grpc/grpc-js";

import type { Connection } from "./connection.js";
import { seconds } from "./durations.js";
import { LimiterError } from "./errors.js";
import {
  type AcquireRequest,
  type AcquireResponse,
  RateLimitServiceService as Service,
} from "./generated/openlimit/v1/rate_limit.js";

/** A call that the service has granted. */
export class Reservation {
  readonly id: string;
  /** Seconds from the answer until the call may start. */
  readonly wait: number;
  /** The unit that sets the wait, such as "tokens"; empty when the wait is 0. */
  readonly limitedBy: string;
  /** How often the service answered meanwhile that the call is still in line. */
  readonly queued: number;
  /** Seconds for which the call holds its slot unless it is renewed; 0 where it needs none. */
  readonly #lease: number;
  readonly #connection: Connection;
  /** What the service wants to hear with each operation on the reservation. */
  readonly #named: { reservationId: string; key: string; labels: Record<string, string> };
  readonly #startsAt: number;
  #isOpen = true;

  constructor(
    connection: Connection,
    { key, labels }: AcquireRequest,
    granted: AcquireResponse,
    queued: number,
  ) {
    this.id = granted.reservationId;
    this.wait = seconds(granted.wait);
    this.limitedBy = granted.limitedBy;
    this.queued = queued;
    this.#lease = seconds(granted.lease);
    this.#connection = connection;
    this.#named = { reservationId: this.id, key, labels };
    this.#startsAt = performance.now() + this.wait * 1000;
  }

  /** Sleep until the call may start. If the signal aborts that, the charge is given back. */
  async start(signal?: AbortSignal): Promise<void> {
    try {
      // Timers count whole milliseconds, and may be early by one.
      for (let left; (left = this.#startsAt - performance.now()) > 0;) {
        await sleep(Math.ceil(left), undefined, { signal });
      }
    } catch (aborted) {
      await this.cancel().catch(() => {});
      throw aborted;
    }
  }

  /** Run a call that may start. Its slot is renewed meanwhile, and freed if the call does not settle. */
  async run<T>(call: (reservation: Reservation) => Promise<T>): Promise<T> {
    const renewals =
      this.#lease > 0 ? setInterval(() => this.#renew(), (this.#lease / 3) * 1000) : undefined;
    try {
      return await call(this);
    } finally {
      clearInterval(renewals);
      // What came of the call matters more: without a release, the slot is freed when its lease ends.
      if (this.#isOpen) await this.release().catch(() => {});
    }
  }

  /** Replace the tokens that were reserved by those that were used. False if there was nothing to settle. */
  async settle(tokens: number): Promise<boolean> {
    const answer = await this.#end(Service.settle, { ...this.#named, tokens, units: {} });
    return answer?.settled ?? false;
  }

  /** Free the slot, and keep the charge. */
  async release(): Promise<void> {
    await this.#end(Service.release, this.#named);
  }

  /** The call will not be made: give its charge back, or free its slot at least if its start has come. */
  async cancel(): Promise<void> {
    const answer = await this.#end(Service.cancel, this.#named);
    if (answer && !answer.cancelled) await this.release();
  }

  async #end<Q, A>(method: MethodDefinition<Q, A>, request: Q): Promise<A | undefined> {
    try {
      const answer = await this.#connection.ask(method, request);
      this.#isOpen = false; // what could not be settled frees its slot at least
      return answer;
    } catch (error) {
      if (isForgotten(error)) return undefined;
      throw error;
    }
  }

  #renew(): void {
    // Without its slot the call goes on all the same, and the next renewal may find a free one.
    this.#connection.ask(Service.renew, this.#named).catch(() => {});
  }
}

/** Whether the service has forgotten the reservation, as after a restart with buckets in memory. */
function isForgotten(error: unknown): boolean {
  return error instanceof LimiterError && error.reason === "UNKNOWN_RESERVATION";
}
