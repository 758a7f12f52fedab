// One policy: its curve, figures, nodes, refusals and overrides.

import { Children, el, mark, say } from "./dom.js";
import { clock, exact, labelled, rate, seconds, shown, time, words } from "./format.js";
import { History } from "./history.js";
import { Nodes } from "./nodes.js";
import { Plot } from "./plot.js";

export const value = (counts, name) => counts[name]?.[0]?.at(-1) ?? 0;

/** What is known of a policy, and what is worth a look. */
export class Policy {
  constructor(name) {
    this.name = name;
    this.history = new History();
  }

  /** Takes what is new, or nothing where nothing has changed. */
  take(at, told) {
    this.told = told ?? this.told;
    this.history.note(at, this.told.counts);
    const roots = this.told.nodes.filter((node) => !node.depth);
    const most = (get) => Math.max(0, ...roots.map((node) => get(node) ?? 0));
    const total = (get) => roots.reduce((all, node) => all + Number(get(node) ?? 0), 0);
    this.waiting = Math.max(total((node) => node.waiting), value(this.told.counts, "line_calls"));
    this.running = total((node) => node.running);
    this.wait = most((node) => seconds(node.wait));
    this.paused = most((node) => seconds(node.paused));
    this.pausedBuckets = roots.filter((node) => seconds(node.paused) > 0).length;
    this.isFull = roots.some((node) => node.limited_by === "concurrent");
    this.overrides = this.told.info.overrides ?? [];
    this.starts = this.history.rate("starts");
    this.refused = this.history.rate("refusals");
  }

  get isUsed() {
    return this.told.nodes.length > 0 || (this.told.counts.decisions ?? []).length > 0;
  }

  /** What part of its parent's units a node was charged in the last minute, in the unit of which the
   *  policy has most; undefined where nothing was charged. */
  used(node) {
    const { info } = this.told;
    const unit = (info.limits ?? []).reduce((a, b) => (a && a.amount >= b.amount ? a : b), undefined)?.unit;
    if (!node.depth || !unit || info.split_by) return undefined;
    const values = info.levels.slice(0, node.depth).map((level) => node.labels?.[level.label] ?? "");
    const name = (path) => `charged ${JSON.stringify(path)} ${unit}`;
    return this.history.part(name(values), name(values.slice(0, -1)));
  }

  /** Refusals by reason, the latest most frequent first. */
  reasons() {
    const rows = (this.told.counts.decisions ?? [])
      .filter(([, reason]) => reason)
      .map(([outcome, reason, unit, count]) => ({
        key: `${outcome} ${reason} ${unit}`,
        text: words(reason) + (unit ? `, ${unit}` : "") + (outcome === "shadow" ? " (shadow: let through)" : ""),
        lately: this.history.lately(`why ${outcome} ${reason} ${unit}`),
        count,
        isShadow: outcome === "shadow",
      }));
    return rows.sort((a, b) => b.lately - a.lately || b.count - a.count);
  }
}

class Figure {
  constructor(label, title) {
    this.number = el("dd");
    this.element = el("div", { title }, el("dt", {}, label), this.number);
  }

  say(text, tone) {
    say(this.number, text);
    mark(this.element, "data-tone", tone);
  }
}

/** Figures in a <dl>, by name. */
export function figures(list, labels) {
  return Object.fromEntries(
    Object.entries(labels).map(([name, [label, title]]) => {
      const figure = new Figure(label, title);
      list.append(figure.element);
      return [name, figure];
    }),
  );
}

export const orDash = (number, show) => (number === undefined ? "–" : show(number));
const bound = (wait) => (wait === Infinity ? "> 30 min" : `≤ ${time(wait)}`);

const LABELS = {
  starts: ["Starts/s", "Mean of the last ten seconds"],
  refused: ["Refused/s", "Mean of the last ten seconds"],
  waiting: ["In line", "Calls that wait in line now"],
  next: ["Next start", "When a new call could start, where it is longest"],
  median: ["Wait p50", "Half of the calls of the last minute waited at most so long"],
  worst: ["Wait p99", "All but one in a hundred calls of the last minute waited at most so long"],
};

export class Card {
  constructor(policy) {
    this.policy = policy;
    this.badges = el("span", { class: "badges" });
    this.models = el("p", { class: "models" });
    this.chart = el("div", { class: "plot", role: "img" });
    this.list = el("dl", { class: "figures" });
    this.figures = figures(this.list, LABELS);
    this.nodes = new Nodes(policy.name);
    this.refusals = el("ul", { class: "refusals", "aria-label": `Refusals of ${policy.name}` });
    this.overrides = el("ul", { class: "overrides", "aria-label": `Overrides of ${policy.name}` });
    const title = el("h2", { id: `policy-${policy.name}`, tabindex: -1 }, policy.name);
    this.element = el(
      "article",
      { class: "card", "aria-labelledby": title.id },
      el("div", { class: "head" }, title, this.badges, this.models),
      el("div", { class: "now" }, this.chart, this.list),
      this.nodes.element,
      this.refusals,
      this.overrides,
    );
    this.plot = new Plot(this.chart);
    this.badge = new Children(this.badges, texts("span", "badge"));
    this.refusal = new Children(this.refusals, texts("li", "refusal"));
    this.override = new Children(this.overrides, texts("li", "override"));
  }

  drop() {
    this.plot.drop();
  }

  update({ at, bounds }) {
    const { policy } = this;
    const { info, nodes, counts } = policy.told;
    const half = policy.history.wait(0.5, bounds);
    const worst = policy.history.wait(0.99, bounds);
    const { figures: f } = this;
    say(this.models, (info.models ?? []).map((model) => shown(model) || "no model").join(", "));
    mark(this.models, "title", this.models.textContent);
    f.starts.say(orDash(policy.starts, rate));
    f.refused.say(orDash(policy.refused, rate), policy.refused > 0 ? "bad" : null);
    f.waiting.say(exact(policy.waiting), policy.waiting ? "warn" : null);
    const within = info.split_by ? "up to" : "in";
    f.next.say(policy.wait > 0 ? `${within} ${time(policy.wait)}` : policy.isFull ? "at a free slot" : "now", policy.wait > 1 || policy.isFull ? "warn" : null);
    f.median.say(orDash(half, bound));
    f.worst.say(orDash(worst, bound));
    this.badge.keep(this.tags(info, counts));
    this.nodes.update(nodes, info, (node) => policy.used(node));
    this.refusal.keep(policy.reasons().map((why) => [why.key, refusal(why)]));
    this.override.keep(policy.overrides.map((each) => [JSON.stringify(each.node ?? {}), override(each)]));
    mark(this.chart, "aria-label", `Starts and refusals a second over the last five minutes; starts now: ${f.starts.number.textContent}`);
    this.plot.show(policy.history, at);
  }

  tags(info, counts) {
    const tags = [];
    const pauses = value(counts, "pauses");
    if (info.mode && info.mode !== "enforce") tags.push(["mode", { text: info.mode, tone: "plain" }]);
    if (this.policy.paused) tags.push(["paused", { text: `${this.whatIsPaused(info)}, ${time(this.policy.paused)} more`, tone: "bad" }]);
    if (pauses) tags.push(["pauses", { text: `${exact(pauses)} ${pauses === 1 ? "pause" : "pauses"} so far`, tone: "plain" }]);
    const many = this.policy.overrides.length;
    if (many) tags.push(["overrides", { text: `${many} ${many === 1 ? "override" : "overrides"}`, tone: "info" }]);
    return tags;
  }

  /** Of a policy that is split, the others go on. */
  whatIsPaused(info) {
    const many = this.policy.pausedBuckets;
    return info.split_by ? `${many} ${many === 1 ? "bucket" : "buckets"} paused` : "paused";
  }
}

/** Makes children that are a text, with a tone. */
const texts = (tag, name) => () => {
  const element = el(tag, { class: name });
  return {
    element,
    update: ({ text, tone, title }) => {
      say(element, text);
      mark(element, "data-tone", tone);
      mark(element, "title", title);
    },
  };
};

const refusal = ({ text, lately, count, isShadow }) => ({
  text: `${text}: ${exact(lately)} in the last minute, ${exact(count)} in all`,
  tone: lately && !isShadow ? "bad" : "plain",
});

function override(each) {
  const what = Object.entries(each.limits ?? {}).map(([unit, limit]) => `${unit} ${limit}`);
  if (each.concurrent !== undefined) what.push(`concurrent ${exact(each.concurrent)}`);
  if (each.weight !== undefined) what.push(`weight ${exact(each.weight)}`);
  const where = labelled(each.node).join(", ") || "all calls";
  const until = new Date(each.until);
  const day = until.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short" });
  const who = `until ${day} ${clock(until).slice(0, 5)}, by ${shown(each.by ?? "")}: ${shown(each.why ?? "")}`;
  const trouble = each.trouble ? `, without effect: ${shown(each.trouble)}` : "";
  return { text: `Override for ${where}: ${what.join(", ")}, ${who}${trouble}`, tone: each.trouble ? "warn" : "info" };
}
