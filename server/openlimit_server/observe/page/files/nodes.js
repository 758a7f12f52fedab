// The table of a policy's nodes: levels, lines, slots and shares.

import { Children, el, mark, say } from "./dom.js";
import { compact, exact, labelled, period, seconds, time } from "./format.js";

const HEADINGS = ["Node", "Level", "In line", "Next start", "Running", "Weight", "Share", "Used"];
const TITLES = {
  Share: "Of its parent, while all its siblings compete",
  Used: "Of what its parent's calls were charged in the last minute at this server",
};

/** How full one limit's bucket is. `added`, if given, is what a call would pour in. */
export class Meter {
  constructor() {
    this.unit = el("span", { class: "unit" });
    this.filled = el("span", { class: "filled" });
    this.poured = el("span", { class: "poured" });
    this.bar = el("span", { class: "bar", role: "meter", "aria-valuemin": 0 }, this.filled, this.poured);
    this.numbers = el("span", { class: "numbers" });
    this.element = el("div", { class: "meter" }, this.unit, this.bar, this.numbers);
  }

  update({ fill, limitedBy, added }) {
    const { unit, amount, capacity } = fill.limit;
    const per = period(seconds(fill.limit.period));
    const level = Math.max(0, fill.level ?? 0);
    const part = Math.min(1, level / capacity);
    say(this.unit, `${unit}/${per}`);
    say(this.numbers, `${compact(level)} / ${compact(capacity)}`);
    mark(this.element, "title", `${unit}: ${exact(level)} of ${exact(capacity)}; limit ${exact(amount)}/${per}`);
    mark(this.element, "data-short", limitedBy === unit);
    mark(this.element, "data-over", level > capacity);
    mark(this.bar, "aria-label", `${unit} per ${per}`);
    mark(this.bar, "aria-valuemax", capacity);
    mark(this.bar, "aria-valuenow", Math.min(level, capacity));
    mark(this.bar, "aria-valuetext", `${exact(level)} of ${exact(capacity)}`);
    this.filled.style.width = `${100 * part}%`;
    this.poured.style.width = `${100 * Math.min(1 - part, (added ?? 0) / capacity)}%`;
  }
}

/** The meters of a node, as children of an element. */
export class Meters {
  constructor(parent) {
    this.meters = new Children(parent, () => new Meter());
  }

  update(node, costs = {}) {
    const fills = (node.fills ?? []).map((fill) => [
      `${fill.limit.unit} ${fill.limit.period}`,
      { fill, limitedBy: node.limited_by, added: Number(costs[fill.limit.unit] ?? 0) },
    ]);
    this.meters.keep(fills);
  }
}

/** The labels of a node in the order in which its policy speaks of them. */
export function path(node, info) {
  const labels = node.labels ?? {};
  const order = [...(info?.split_by ?? []), ...(info?.levels ?? []).map((level) => level.label)];
  const known = order.filter((name) => name in labels);
  const others = Object.keys(labels).filter((name) => !known.includes(name));
  return labelled(Object.fromEntries([...known, ...others].map((name) => [name, labels[name]])));
}

/** Its name: the labels, each in an element of its own, so that none turns the others around. */
export function named(node, info) {
  const parts = path(node, info);
  if (!parts.length) return [el("span", { class: "all" }, "all calls")];
  return parts.map((part, i) => el("bdi", { class: i < parts.length - 1 ? "above" : "own", title: part }, part));
}

/** When something may start here, and what it waits for. */
export function nextStart(node) {
  const paused = seconds(node.paused);
  if (paused > 0) return `paused ${time(paused)}`;
  const wait = seconds(node.wait);
  if (wait > 0) return `in ${time(wait)}${node.limited_by ? `, ${node.limited_by}` : ""}`;
  if (node.limited_by === "concurrent") return "when a slot is free";
  return Number(node.waiting ?? 0) ? "at its turn" : "now";
}

const percent = (part) => `${exact(Math.round(part * 1000) / 10)}\u00a0%`;

class Row {
  constructor(node, info) {
    this.cells = HEADINGS.map((heading, i) => el("td", { "data-heading": heading, role: i ? "cell" : "rowheader" }));
    this.cells[0].append(...named(node, info));
    this.meters = new Meters(this.cells[1]);
    this.element = el("tr", { role: "row" }, ...this.cells);
  }

  update(node, part) {
    const [, , line, next, running, weight, share, used] = this.cells;
    const waiting = Number(node.waiting ?? 0);
    this.meters.update(node);
    say(line, exact(waiting));
    say(next, nextStart(node));
    say(running, node.slots === undefined ? exact(Number(node.running ?? 0)) : `${exact(Number(node.running ?? 0))} / ${exact(Number(node.slots))}`);
    say(weight, node.weight === undefined ? "" : exact(node.weight));
    say(share, node.share === undefined ? "" : percent(node.share));
    say(used, part === undefined ? "" : percent(part));
    mark(line, "data-tone", waiting > 0 ? "warn" : null);
    mark(this.element, "data-waits", seconds(node.wait) > 0 || node.limited_by);
    mark(this.element, "data-paused", seconds(node.paused) > 0);
  }
}

/** The table of one policy. A column that says nothing of any node is left out. */
export class Nodes {
  constructor(name) {
    this.headings = HEADINGS.map((heading) => el("th", { scope: "col", role: "columnheader", title: TITLES[heading] }, heading));
    this.rows = el("tbody", { role: "rowgroup" });
    // The roles are named, since on narrow screens the table is laid out as blocks.
    this.element = el(
      "table",
      { class: "nodes", role: "table", "aria-label": `Nodes of ${name}` },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...this.headings)),
      this.rows,
    );
    this.children = new Children(this.rows, (_, { node, info }) => {
      const row = new Row(node, info);
      return { element: row.element, update: (thing) => row.update(thing.node, thing.used) };
    });
  }

  update(nodes, info, used) {
    const things = nodes.map((node) => [path(node, info), { node, info, used: used(node) }]);
    // In the tree's order: rows that changed places every second could not be read.
    things.sort(([a], [b]) => (a.join("\0") < b.join("\0") ? -1 : 1));
    this.children.keep(things.map(([key, thing]) => [key.join("\0"), thing]));
    this.element.hidden = !nodes.length;
    const says = {
      lined: nodes.some((node) => node.waiting !== undefined && node.waiting !== "0") || Boolean(info.levels || info.concurrent),
      slotted: nodes.some((node) => node.slots !== undefined || Number(node.running ?? 0) > 0),
      shared: nodes.some((node) => node.weight !== undefined),
    };
    for (const [name, is] of Object.entries(says)) mark(this.element, `data-${name}`, is);
  }
}
