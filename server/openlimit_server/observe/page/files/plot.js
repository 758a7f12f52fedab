// A policy's curve: starts and refusals a second, over the last minutes.

import { KEPT } from "./history.js";
import { clock, rate, time } from "./format.js";

const HEIGHT = 104;
const SPANS = [60, 120, 240, KEPT]; // seconds: the shortest that shows all

/** Drawn into an element; draws again when the element's size or the colours change. */
export class Plot {
  constructor(element) {
    this.element = element;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.anew = () => this.make();
    this.dark.addEventListener("change", this.anew);
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: element.clientWidth, height: HEIGHT }));
    this.sizes.observe(element);
  }

  drop() {
    this.sizes.disconnect();
    this.dark.removeEventListener("change", this.anew);
    this.plot?.destroy();
  }

  /** Shows this history up to a moment. */
  show(history, at) {
    const { refusals } = history;
    // A line at zero would be read as one.
    this.data = [history.at, history.starts, refusals.some((number) => number > 0) ? refusals : refusals.map(() => null)];
    this.until = at;
    const known = at - (history.at[0] ?? at);
    this.span = SPANS.find((span) => span >= known) ?? KEPT;
    if (!this.plot) this.make();
    else this.plot.setData(this.data);
    if (this.plot.cursor.left < 0) this.plot.setLegend({ idx: history.at.length - 1 });
  }

  make() {
    if (!this.data) return;
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = {
      stroke: colour("muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: colour("line"), width: 1 },
      ticks: { show: false },
    };
    const series = (label, name) => ({
      label,
      stroke: colour(name),
      fill: `color-mix(in srgb, ${colour(name)} 14%, transparent)`,
      width: 1.5,
      points: { show: false },
      value: (_, number) => (number == null ? "none" : `${rate(number)}/s`),
    });
    this.plot = new uPlot(
      {
        width: this.element.clientWidth || 300,
        height: HEIGHT,
        padding: [8, 16, 0, 0],
        legend: { live: true, markers: { width: 0, fill: (_, i) => colour(["", "accent", "bad"][i]) } },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: {
          x: { time: false, range: () => [this.until - this.span, this.until] },
          y: { range: (_, least, most) => [0, Math.max(1, (most ?? 0) * 1.15)] },
        },
        axes: [
          {
            ...axis,
            size: 23,
            gap: 5,
            splits: () => [0, 0.25, 0.5, 0.75, 1].map((part) => this.until - part * this.span),
            values: (_, splits) => splits.map((t) => (t === this.until ? "now" : `−${time(Math.round(this.until - t))}`)),
          },
          { ...axis, size: 42, gap: 4, space: 26, values: (_, splits) => splits.map((n) => rate(n)) },
        ],
        series: [
          { label: "at", value: (_, t) => (t ? clock(new Date(t * 1000)) : "") },
          series("starts", "accent"),
          series("refusals", "bad"),
        ],
      },
      this.data,
      this.element,
    );
  }
}
