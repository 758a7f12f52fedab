import { setTimeout as sleep } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";

import { LimiterError } from "./errors.js";

const OPTIONS: grpc.ChannelOptions = {
  // If the address has several servers, each takes a share of the calls.
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  // A server that was restarted is found again within a second or so, not within minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // A server that vanished without a goodbye is noticed. It allows a ping every ten seconds.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
};
const FIRST_PAUSE = 50; // milliseconds
const LONGEST_PAUSE = 1000;
// A proxy says DEADLINE_EXCEEDED when a request has taken as long as the proxy lets it, and INTERNAL
// when the server went away in the middle of its answer.
const { UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, INTERNAL } = grpc.status;
const OUTAGES = [UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, INTERNAL];

/** A connection that outlives restarts of the server. */
export class Connection {
  /** How often a request was sent again, because a server was away. */
  retries = 0;
  readonly #client: grpc.Client;
  readonly #timeout: number;

  /** A request is sent again for `timeout` seconds while no server answers it. */
  constructor(address: string, credentials: grpc.ChannelCredentials, timeout: number) {
    this.#client = new grpc.Client(address, credentials, OPTIONS);
    this.#timeout = timeout * 1000;
  }

  /** The answer to a request, which has to be safe to repeat. Fails with a LimiterError. */
  async ask<Q, A>(
    method: grpc.MethodDefinition<Q, A>,
    request: Q,
    signal?: AbortSignal,
  ): Promise<A> {
    const deadline = Date.now() + this.#timeout;
    for (let longest = FIRST_PAUSE; ; longest = Math.min(2 * longest, LONGEST_PAUSE)) {
      try {
        return await this.#askOnce(method, request, deadline, signal);
      } catch (error) {
        signal?.throwIfAborted();
        const pause = Math.random() * longest;
        if (!isOutage(error as grpc.ServiceError) || Date.now() + pause > deadline) {
          throw new LimiterError(error as grpc.ServiceError);
        }
        await sleep(pause, undefined, { signal });
        this.retries++;
      }
    }
  }

  close(): void {
    this.#client.close();
  }

  #askOnce<Q, A>(
    method: grpc.MethodDefinition<Q, A>,
    request: Q,
    deadline: number,
    signal?: AbortSignal,
  ) {
    return new Promise<A>((resolve, reject) => {
      signal?.throwIfAborted();
      const { path, requestSerialize, responseDeserialize } = method;
      const cancel = () => call.cancel();
      const call = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        new grpc.Metadata(),
        { deadline },
        (error, answer) => {
          signal?.removeEventListener("abort", cancel);
          if (error) reject(error);
          else resolve(answer as A);
        },
      );
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }
}

/** Whether to ask again: the server is away or stopping. It may have been in the middle of the call. */
function isOutage({ code }: grpc.ServiceError): boolean {
  return OUTAGES.includes(code);
}
