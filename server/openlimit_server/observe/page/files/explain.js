// The form "why would this call wait?" and its answer.

import { el, mark } from "./dom.js";
import { compact, seconds, shown, time } from "./format.js";
import { Meters, named, nextStart } from "./nodes.js";

const VERDICTS = {
  VERDICT_STARTS: ["good", () => "It would start at once"],
  VERDICT_WAITS: ["warn", (wait) => `It would wait ${time(wait)}`],
  VERDICT_QUEUES: ["warn", (wait) => `It would wait in line${wait ? `, about ${time(wait)}` : ""}`],
  VERDICT_REFUSED: ["bad", () => "It would be refused"],
  VERDICT_NEVER: ["bad", () => "It could never start"],
};

/** The call of the form as an AcquireRequest in JSON; throws what is wrong, and where. */
function call(form) {
  const said = new FormData(form);
  const asked = { model: said.get("model"), tokens: said.get("tokens") || "0", key: said.get("key") };
  const lines = said.get("labels").split("\n").filter((line) => line.trim());
  asked.labels = Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf("=");
      if (at < 1) throw new Wrong("labels", `A label is a name, = and a value, such as team=search; not ${shown(line)}`);
      return [line.slice(0, at).trim(), line.slice(at + 1).replace(/\r$/, "")];
    }),
  );
  if (said.get("max-wait")) asked.max_wait = `${Number(said.get("max-wait")).toFixed(6)}s`;
  return asked;
}

class Wrong extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** `ask(request)` returns the server's answer as { ok, said }; `infoOf(name)` a policy. */
export function explain(form, answer, ask, infoOf) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const field of form.elements) mark(field, "aria-invalid", null);
    try {
      const { ok, said } = await ask({ call: call(form) });
      answer.replaceChildren(...(ok ? verdict(said, infoOf(said.policy)) : [wrong(said.error)]));
    } catch (error) {
      const field = form.elements[error.field];
      if (field) {
        mark(field, "aria-invalid", "true");
        field.focus();
      }
      answer.replaceChildren(wrong(field ? error.message : "The server cannot be reached; ask again."));
    }
  });
}

const wrong = (text) => el("p", { class: "verdict", "data-tone": "bad" }, text);

function verdict(said, info) {
  const [tone, headline] = VERDICTS[said.verdict] ?? ["warn", () => said.verdict];
  const starts = said.mode === "enforce" || !said.mode ? null : `The policy is in the mode ${said.mode}: calls start at once all the same.`;
  const costs = Object.entries(said.costs ?? {}).map(([unit, cost]) => `${compact(Number(cost))} ${cost === "1" ? unit.replace(/s$/, "") : unit}`);
  const held = said.held_at;
  return [
    el("p", { class: "verdict", "data-tone": tone }, headline(seconds(said.wait ?? "0s"))),
    said.reason ? el("p", { class: "reason" }, shown(said.reason)) : null,
    starts ? el("p", { class: "reason" }, starts) : null,
    el("p", { class: "hint" }, `Policy ${said.policy}; it would be charged ${costs.join(", ") || "nothing"}.`),
    el(
      "ol",
      { class: "path", "aria-label": "Its path" },
      ...(said.path ?? []).map((node, i) => step(node, info, said.costs, i === held ? said.limited_by : null)),
    ),
  ].filter(Boolean);
}

function step(node, info, costs, limitedBy) {
  const holds = limitedBy !== null;
  const meters = el("div");
  new Meters(meters).update(holds ? { ...node, limited_by: limitedBy } : node, costs);
  const running = node.slots === undefined ? [] : [`${node.running ?? 0} of ${node.slots} slots taken`];
  const waiting = Number(node.waiting ?? 0) ? [`${node.waiting} in line`] : [];
  const facts = [`next start ${nextStart(node)}`, ...running, ...waiting];
  if (node.weight !== undefined) facts.push(`weight ${node.weight}, share ${Math.round((node.share ?? 0) * 1000) / 10} %`);
  return el(
    "li",
    { "data-held": holds },
    el("p", { class: "name" }, ...named(node, info), holds ? el("strong", {}, `holds it up: ${limitedBy || "other calls"}`) : null),
    meters,
    el("p", { class: "hint" }, facts.join(" · ")),
  );
}
