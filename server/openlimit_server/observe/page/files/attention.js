// The line at the top: what an engineer looks at first.

import { Children, el, mark, say } from "./dom.js";
import { exact, rate, seconds, time } from "./format.js";
import { path } from "./nodes.js";

const MOST = 12;

/** Where in a policy, unless that is all of it. */
function at(node, policy) {
  const labels = path(node, policy.told.info).join(", ");
  return labels ? ` at ${labels}` : "";
}

function* of(policy) {
  const paused = policy.told.nodes.find((node) => seconds(node.paused) > 0);
  if (paused) yield ["bad", "paused", `is paused${at(paused, policy)} for ${time(policy.paused)} more`];
  if (policy.refused >= 0.05) {
    const [why] = policy.reasons().filter((each) => !each.isShadow);
    yield ["bad", "refuses", `refuses ${rate(policy.refused)}/s: ${why?.text ?? ""}`];
  }
  if (policy.waiting) {
    const held = policy.told.nodes.find((node) => Number(node.waiting ?? 0) && node.limited_by);
    const where = held ? `${at(held, policy)}, for ${held.limited_by}` : "";
    yield ["warn", "line", `has ${exact(policy.waiting)} in line${where}`];
  } else if (policy.wait > 1 && !policy.paused) {
    yield ["warn", "ahead", `makes new calls wait ${time(policy.wait)}`];
  }
  const idle = policy.overrides.filter((each) => each.trouble).length;
  if (idle) yield ["warn", "idle", `has ${idle} ${idle === 1 ? "override" : "overrides"} without effect`];
}

function* ofServer(told) {
  if (told.trouble) yield ["store", `The store cannot be asked: ${told.trouble}`];
  const [[invalid]] = told.counts.invalid_files;
  if (invalid) yield ["files", "A changed file is invalid, so what it said before goes on: see the server's log"];
}

export class Attention {
  constructor(element) {
    this.calm = el("p", { class: "calm" }, "Nothing waits, nothing is refused, nothing is paused.");
    this.list = el("ul");
    this.more = el("p", { class: "hint" });
    element.append(this.calm, this.list, this.more);
    this.items = new Children(this.list, () => {
      const link = el("a");
      const element = el("li", {}, link);
      return {
        element,
        update: ({ tone, text, name }) => {
          mark(element, "data-tone", tone);
          mark(link, "href", name === undefined ? null : `#policy-${encodeURIComponent(name)}`);
          say(link, name === undefined ? text : `${name} ${text}`);
        },
      };
    });
  }

  /** Returns how many there are. */
  update(told, policies) {
    const found = [...ofServer(told)].map(([what, text]) => [what, { tone: "bad", text }]);
    for (const policy of policies) {
      for (const [tone, what, text] of of(policy)) found.push([`${what} ${policy.name}`, { tone, text, name: policy.name }]);
    }
    found.sort(([, a], [, b]) => (a.tone === "bad" ? 0 : 1) - (b.tone === "bad" ? 0 : 1));
    this.calm.hidden = found.length > 0;
    this.items.keep(found.slice(0, MOST));
    say(this.more, found.length > MOST ? `and ${found.length - MOST} more` : "");
    return found.length;
  }
}
