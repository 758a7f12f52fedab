// What a policy's counts were in the last minutes, as rates.

export const KEPT = 300; // seconds
const RECENT = 10; // seconds over which a rate in figures is the mean
const A_MINUTE = 60;
const GAP = 3; // seconds without news after which the curve is interrupted

const STARTED = new Set(["granted", "waited", "shadow", "unlimited"]);
const REFUSED = new Set(["refused", "error"]);

const sum = (rows, outcomes) =>
  rows.reduce((total, [outcome, , , count]) => total + (outcomes.has(outcome) ? count : 0), 0);

/** Counters as numbers by name, of which the differences make rates. */
function numbers(counts) {
  const decisions = counts.decisions ?? [];
  const found = { starts: sum(decisions, STARTED), refusals: sum(decisions, REFUSED) };
  for (const [outcome, reason, unit, count] of decisions) {
    if (reason) found[`why ${outcome} ${reason} ${unit}`] = count;
  }
  for (const [node, unit, count] of counts.node_units ?? []) found[`charged ${JSON.stringify(node)} ${unit}`] = count;
  counts.wait_seconds?.[0]?.[0].forEach((count, i) => (found[`wait ${i}`] = count));
  return found;
}

export class History {
  constructor() {
    this.at = [];
    this.starts = [];
    this.refusals = [];
    this.before = [];
  }

  /** Notes the counts at a moment, in seconds. */
  note(at, counts) {
    const now = { at, ...numbers(counts) };
    const last = this.before.at(-1);
    if (last && at <= last.at) return;
    if (last && at - last.at > GAP) this.point(last.at + 1, null, null);
    if (last) {
      const took = at - last.at;
      this.point(at, grown(last, now, "starts") / took, grown(last, now, "refusals") / took);
    }
    this.before.push(now);
    while (this.before[0].at < at - A_MINUTE - 1) this.before.shift();
    while (this.at[0] < at - KEPT - 2) [this.at, this.starts, this.refusals].forEach((each) => each.shift());
  }

  point(at, starts, refusals) {
    this.at.push(at);
    this.starts.push(starts);
    this.refusals.push(refusals);
  }

  /** The mean rate of the last seconds; undefined before there is one. */
  rate(name) {
    const now = this.before.at(-1);
    const then = this.before.find((each) => each.at >= now.at - RECENT - 0.5);
    return then && then !== now ? grown(then, now, name) / (now.at - then.at) : undefined;
  }

  /** By how much it grew in the last minute. */
  lately(name) {
    return this.before.length > 1 ? grown(this.before[0], this.before.at(-1), name) : 0;
  }

  /** By how much one number grew compared with another that has it in it, in the last minute or
   *  since it is told; undefined where nothing grew. */
  part(name, whole) {
    const [then, now] = [this.before.find((each) => name in each), this.before.at(-1)];
    const total = then ? grown(then, now, whole) : 0;
    return total ? Math.min(1, grown(then, now, name) / total) : undefined;
  }

  /** The wait in seconds that this share of the last minute's calls did not exceed; the next bound
   *  of the histogram. Undefined without calls; Infinity above all bounds. */
  wait(share, bounds) {
    const grew = [...bounds, Infinity].map((_, i) => this.lately(`wait ${i}`));
    const total = grew.reduce((a, b) => a + b, 0);
    if (!total) return undefined;
    let below = 0;
    const i = grew.findIndex((count) => (below += count) >= share * total);
    return i < bounds.length ? bounds[i] : Infinity;
  }
}

/** A counter that is less than before began anew, with its server. */
function grown(then, now, name) {
  const [a, b] = [then[name] ?? 0, now[name] ?? 0];
  return b < a ? b : b - a;
}
