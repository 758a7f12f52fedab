import type { Duration } from "./generated/google/protobuf/duration.js";

/** A duration in seconds; an absent one is 0. */
export function seconds(duration: Duration | undefined): number {
  return duration ? duration.seconds + duration.nanos / 1e9 : 0;
}

/** A duration of so many seconds, in whole microseconds. */
export function duration(length: number): Duration {
  const micros = Math.round(length * 1e6);
  return { seconds: Math.floor(micros / 1e6), nanos: (micros % 1e6) * 1e3 };
}
