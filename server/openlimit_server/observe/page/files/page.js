// The page: takes the server's news, and shows them.

import { Attention } from "./attention.js";
import { Card, figures, orDash, Policy, value } from "./card.js";
import { Children, el, mark, say } from "./dom.js";
import { explain } from "./explain.js";
import { clock, exact, rate, time } from "./format.js";
import { History } from "./history.js";
import { Stream } from "./stream.js";

const KEY = "openlimit-key";
const MOST_CARDS = 50;
const MOST_NAMES = 40;

const $ = (id) => document.getElementById(id);
const policies = new Map();
const store = new History();
const attention = new Attention($("attention"));
const totals = figures($("totals"), {
  starts: ["Starts/s", "Mean of the last ten seconds"],
  waiting: ["In line", "Calls that wait in line now"],
  refused: ["Refused/s", "Mean of the last ten seconds"],
  store: ["Store p50", "Half of the store's answers of the last minute took at most so long"],
  worst: ["Store p99", "All but one in a hundred answers of the last minute took at most so long"],
  failed: ["Store errors", "Operations that the store did not decide, in the last minute"],
  streams: ["Streams", "Open streams of clients"],
});
let names = [];
let latest; // the last news, and when they came
let connected = false;

const cards = new Children($("cards"), (name) => new Card(policies.get(name)));

function take(told) {
  latest = { told, came: new Date() };
  names = told.names ?? names;
  for (const name of policies.keys()) if (!names.includes(name)) policies.delete(name);
  for (const name of names) {
    if (!policies.has(name)) policies.set(name, new Policy(name));
    policies.get(name).take(told.at, told.policies[name]);
  }
  const { counts } = told;
  store.note(told.at, { wait_seconds: counts.store_seconds, decisions: [["error", "", "", value(counts, "store_errors")]] });
  connected = true;
  show();
}

function show() {
  const { told } = latest;
  const all = names.map((name) => policies.get(name));
  const wanted = $("filter").value.trim().toLowerCase();
  const used = all.filter((policy) => policy.isUsed);
  const found = used.filter((policy) => policy.name.toLowerCase().includes(wanted));
  const context = { at: told.at, bounds: told.bounds.wait_seconds };
  const many = attention.update(told, used);
  document.title = many ? `(${many}) openlimit` : "openlimit";
  $("board").hidden = false;
  $("door").hidden = true;
  cards.keep(found.slice(0, MOST_CARDS).map((policy) => [policy.name, context]));
  mark($("board"), "data-stale", Boolean(told.trouble));
  showTotals(told, used);
  showUnused(all, used, found, wanted);
  showModels(all);
  showConnection();
}

function showTotals({ counts, bounds }, used) {
  const total = (get) => used.reduce((sum, policy) => sum + (get(policy) ?? 0), 0);
  const knows = used.some((policy) => policy.starts !== undefined);
  const waiting = total((policy) => policy.waiting);
  const refused = total((policy) => policy.refused);
  const failed = store.lately("refusals");
  const took = (share) => orDash(store.wait(share, bounds.store_seconds), (s) => (s === Infinity ? "> 5 s" : `≤ ${time(s)}`));
  totals.starts.say(knows ? rate(total((policy) => policy.starts)) : "–");
  totals.waiting.say(exact(waiting), waiting ? "warn" : null);
  totals.refused.say(knows ? rate(refused) : "–", refused > 0 ? "bad" : null);
  totals.store.say(took(0.5));
  totals.worst.say(took(0.99));
  totals.failed.say(exact(failed), failed ? "bad" : null);
  totals.streams.say(exact(value(counts, "streams")));
}

function showUnused(all, used, found, wanted) {
  const idle = all.filter((policy) => !policy.isUsed).map((policy) => policy.name);
  const listed = idle.slice(0, MOST_NAMES).join(", ") + (idle.length > MOST_NAMES ? ` and ${idle.length - MOST_NAMES} more` : "");
  const said = [];
  if (!used.length) said.push("No call has come yet. As soon as one does, its policy is shown here.");
  else if (!found.length) said.push(`No policy that is in use has a name with “${wanted}”.`);
  if (found.length > MOST_CARDS) said.push(`${found.length - MOST_CARDS} more policies are in use: name one above.`);
  if (latest.told.is_partial) said.push("There are more buckets than were looked at.");
  if (idle.length) said.push(`Not used yet: ${listed}.`);
  say($("unused"), said.join(" "));
}

function showModels(all) {
  const models = new Set(all.flatMap((policy) => policy.told.info.models ?? []).filter((model) => model && !/[*?]/.test(model)));
  const listed = [...models].slice(0, 100);
  if ($("models").childElementCount !== listed.length) {
    $("models").replaceChildren(...listed.map((model) => el("option", { value: model })));
  }
}

function showConnection(why) {
  const element = $("connection");
  mark(element, "data-state", connected ? "live" : "lost");
  mark(document.body, "data-lost", !connected);
  if (connected) say(element, "live");
  else if (latest) say(element, `no news since ${clock(latest.came)}: ${why}; trying again`);
  else say(element, `${why}; trying again`);
}

const authorization = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? `Bearer ${key}` : "";
};

function ask(why) {
  const had = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  $("board").hidden = true;
  $("door").hidden = false;
  $("forget").hidden = true;
  mark($("connection"), "data-state", "denied");
  say($("connection"), "a key is needed");
  say($("door-said"), had ? why : "");
  $("door-key").focus();
}

const stream = new Stream("live", {
  state: take,
  denied: ask,
  lost: (why) => {
    connected = false;
    showConnection(why);
  },
});

function open() {
  $("forget").hidden = !authorization();
  stream.open(authorization());
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("door-key").value.trim();
  $("door-key").value = "";
  if (!/^[!-~]+$/.test(key)) {
    say($("door-said"), "A key has no spaces and no letters but those of ASCII.");
    return;
  }
  sessionStorage.setItem(KEY, key);
  open();
});

$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});

$("filter").addEventListener("input", () => latest && show());

explain(
  $("explain"),
  $("answer"),
  async (request) => {
    const headers = { "content-type": "application/json" };
    if (authorization()) headers.authorization = authorization();
    const response = await fetch("explain", { method: "POST", headers, body: JSON.stringify(request) });
    return { ok: response.ok, said: await response.json() };
  },
  (name) => policies.get(name)?.told.info,
);

open();
