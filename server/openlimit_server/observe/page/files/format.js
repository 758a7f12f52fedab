// How numbers, times and what callers have written are shown.

const exactly = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** All its digits. */
export const exact = (number) => exactly.format(number);

/** At most three digits that count: 1.23M. */
export const compact = (number) =>
  Math.abs(number) < 0.005 ? "0" : Math.abs(number) < 10000 ? three.format(number) : short.format(number);

/** A rate, with a fixed number of decimals so that it does not jump. */
export const rate = (number) =>
  number >= 100 ? compact(Math.round(number)) : number.toFixed(number >= 9.95 || number < 0.005 ? 0 : 1);

/** Seconds, as 340 ms, 2.5 s, 4 min 10 s or 3 h 20 min. */
export function time(seconds) {
  if (seconds <= 0) return "0\u00a0s";
  if (seconds < 0.0995) return `${three.format(Number((seconds * 1000).toPrecision(2)))}\u00a0ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}\u00a0ms`;
  if (seconds < 59.95) return `${three.format(seconds)}\u00a0s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return joined([Math.floor(whole / 60), "min"], [whole % 60, "s"]);
  if (whole < 86400) return joined([Math.floor(whole / 3600), "h"], [Math.floor((whole % 3600) / 60), "min"]);
  return joined([Math.floor(whole / 86400), "d"], [Math.floor((whole % 86400) / 3600), "h"]);
}

const joined = (...parts) => parts.filter(([n], i) => n || !i).map(([n, unit]) => `${n}\u00a0${unit}`).join(" ");

/** What a limit is per: min, h, 90 s. */
export function period(seconds) {
  const names = { 1: "s", 60: "min", 3600: "h", 86400: "day", 604800: "week" };
  return names[seconds] ?? time(seconds);
}

/** The seconds of a Duration in JSON; undefined for none. */
export const seconds = (duration) => (duration === undefined ? undefined : parseFloat(duration));

/** The time of day, by this machine's clock. */
export const clock = (date) => date.toLocaleTimeString("en-GB");

/** A text of callers, in which what cannot be seen, or turns the text around, is written out. */
export const shown = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

/** Labels as they are written in the form: team=search. */
export const labelled = (labels) => Object.entries(labels ?? {}).map(([name, value]) => `${name}=${shown(value)}`);

/** A reason of the wire, in words: WAIT_TOO_LONG is "wait too long". */
export const words = (reason) => reason.toLowerCase().replaceAll("_", " ");
