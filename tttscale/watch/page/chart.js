// A chart of lines, bands and stacked areas in SVG; its colours follow the page's theme by themselves.

const SVG = "http://www.w3.org/2000/svg";
const drawn = (name, attributes = {}, text = null) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
};

const formatNumber = (value, digits = 4) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e4 || (size > 0 && size < 1e-3)) {
    for (const [unit, factor] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (size >= factor) return `${Number((value / factor).toPrecision(digits))}${unit}`;
    return Number(value.toPrecision(3)).toExponential();
  }
  return `${Number(value.toPrecision(digits))}`;
};

const GUTTER = 54, BOTTOM = 22, TOP = 8, RIGHT = 6;

/** Marks of an axis: round numbers, or powers of the base between which the axis is logarithmic. */
const marksOf = (low, high, count, base) => {
  if (base) {
    const first = Math.ceil(Math.log(low) / Math.log(base) - 1e-9), last = Math.floor(Math.log(high) / Math.log(base) + 1e-9);
    const stride = Math.max(1, Math.ceil((last - first + 1) / count)), marks = [];
    for (let power = first; power <= last; power += stride) marks.push(base ** power);
    if (marks.length > 1) return marks;
  }
  const distance = roundDistance(high - low || 1, count), marks = [];
  for (let mark = Math.ceil(low / distance - 1e-9) * distance; mark <= high + distance * 1e-9; mark += distance) marks.push(Number(mark.toPrecision(12)));
  return marks;
};

/**
 * Draw into a box. `x` are places; each series has `values` (null for none), `colour`, `name`, and may have `low` and
 * `high` for a band; `stacked` puts areas on each other; `steps` has one more x than values and draws stairs.
 */
class Chart {
  constructor(box) {
    Object.assign(this, { box, what: null });
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(box);
  }

  show(what) { this.what = what; this.draw(); }

  draw() {
    const { box, what } = this, width = box.clientWidth, height = box.clientHeight;
    if (!what || !width) return;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": what.label });
    const keys = what.series.length > 1 ? [element("div", { class: "chart-keys" }, ...what.series.map(({ name, colour }) => element("span", {}, element("i", { style: { background: `var(${colour})` } }), name)))] : [];
    box.replaceChildren(svg, ...keys);
    box.style.marginBottom = keys.length ? `${keys[0].offsetHeight + 4}px` : "";
    const numbers = what.stacked ? [0, 1] : what.series.flatMap(({ values, low, high }) => [...values, ...(low || []), ...(high || [])]).filter((value) => value !== null && (!what.logY || value > 0));
    this.scale = null;
    if (!what.x.length || !numbers.length) {
      svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "empty" }, what.empty || "no values yet"));
      return;
    }
    this.scale = this.scales(numbers, width, height);
    this.axes(svg, width, height);
    const inner = drawn("svg", { x: 0, y: TOP - 3, width, height: height - BOTTOM - TOP + 6, viewBox: `0 ${TOP - 3} ${width} ${height - BOTTOM - TOP + 6}`, class: "inner" });
    svg.append(inner);
    if (what.stacked) this.areas(inner); else what.series.forEach((one) => this.series(inner, one));
    this.cursor = drawn("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    svg.append(this.cursor);
  }

  scales(numbers, width, height) {
    const { what } = this;
    let low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
    const logY = what.logY && low > 0 && high / low > 1.2;
    if (what.most !== undefined && what.most > low) high = Math.min(high, what.most);
    if (what.zero && !logY) low = Math.min(low, 0);
    const spread = high - low || Math.abs(high) || 1;
    if (!what.stacked && !logY) { high += spread * 0.05; if (!(what.zero && low === 0)) low -= spread * 0.05; }
    const first = what.x[0], last = what.x[what.x.length - 1], left = first === last ? first - 1 : first, right = first === last ? last + 1 : last;
    const place = (value, from, to, log) => (log ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from));
    return {
      low, high, logY, left, right,
      x: (value) => GUTTER + place(value, left, right, what.logX) * (width - GUTTER - RIGHT),
      y: (value) => height - BOTTOM - place(logY ? Math.max(value, low) : value, low, high, logY) * (height - BOTTOM - TOP),
    };
  }

  axes(svg, width, height) {
    const { what, scale } = this, formatY = what.formatY || formatNumber, formatX = what.formatX || formatNumber;
    for (const mark of marksOf(scale.low, scale.high, 5, scale.logY ? 10 : 0)) {
      const y = scale.y(mark);
      svg.append(drawn("line", { class: "grid", x1: GUTTER, x2: width - RIGHT, y1: y, y2: y }), drawn("text", { x: GUTTER - 7, y: y + 4, "text-anchor": "end" }, formatY(mark)));
    }
    for (const mark of marksOf(scale.left, scale.right, Math.max(3, Math.floor(width / 100)), what.logX ? 2 : 0)) {
      const x = scale.x(mark);
      svg.append(drawn("line", { class: "grid", x1: x, x2: x, y1: height - BOTTOM, y2: height - BOTTOM + 4 }), drawn("text", { x, y: height - 6, "text-anchor": x > width - 24 ? "end" : "middle" }, formatX(mark)));
    }
  }

  series(svg, { values, low, high, colour, dots }) {
    const { what, scale } = this, { x } = what;
    if (what.steps) {
      const path = values.map((value, i) => (value === null ? "" : `${values[i - 1] === null || i === 0 ? "M" : "L"}${scale.x(x[i])} ${scale.y(value)}H${scale.x(x[i + 1])}`)).join("");
      svg.append(drawn("path", { class: "line", d: path, style: `stroke: var(${colour})` }));
      return;
    }
    if (low) {
      const there = x.map((_, i) => i).filter((i) => low[i] !== null);
      const up = there.map((i) => `${scale.x(x[i])} ${scale.y(high[i])}`), down = there.reverse().map((i) => `${scale.x(x[i])} ${scale.y(low[i])}`);
      if (up.length > 1) svg.append(drawn("path", { class: "band", d: `M${up.join("L")}L${down.join("L")}Z`, style: `fill: var(${colour})` }));
    }
    const there = x.map((_, i) => i).filter((i) => values[i] !== null && (!scale.logY || values[i] > 0));
    if (!there.length) return;
    svg.append(drawn("path", { class: "line", d: `M${there.map((i) => `${scale.x(x[i])} ${scale.y(values[i])}`).join("L")}`, style: `stroke: var(${colour})` }));
    if (there.length === 1 || (dots && there.length < 80)) there.forEach((i) => svg.append(drawn("circle", { cx: scale.x(x[i]), cy: scale.y(values[i]), r: 3, style: `fill: var(${colour})` })));
  }

  areas(svg) {
    const { what, scale } = this, there = what.x.map((_, i) => i).filter((i) => what.series[0].values[i] !== null);
    let below = there.map(() => 0);
    for (const { values, colour } of what.series) {
      const above = there.map((i, n) => Math.min(1, below[n] + (values[i] || 0)));
      const up = there.map((i, n) => `${scale.x(what.x[i])} ${scale.y(above[n])}`), down = there.map((i, n) => `${scale.x(what.x[i])} ${scale.y(below[n])}`).reverse();
      if (there.length === 1) { up.push(`${scale.x(scale.right)} ${scale.y(above[0])}`); down.unshift(`${scale.x(scale.right)} ${scale.y(below[0])}`); }
      if (up.length) svg.append(drawn("path", { d: `M${up.join("L")}L${down.join("L")}Z`, style: `fill: var(${colour})` }));
      below = above;
    }
  }

  point(event) {
    const { what, scale } = this;
    if (!event || !scale) { if (this.cursor) this.cursor.setAttribute("visibility", "hidden"); showTooltip(null); return; }
    const at = event.clientX - this.box.getBoundingClientRect().left, last = what.steps ? what.x.length - 1 : what.x.length;
    let best = 0;
    for (let i = 0; i < last; i += 1) {
      const better = what.steps ? scale.x(what.x[i]) <= at : Math.abs(scale.x(what.x[i]) - at) < Math.abs(scale.x(what.x[best]) - at);
      if (better) best = i;
    }
    const x = what.steps ? clamp(at, GUTTER, scale.x(what.x[last])) : scale.x(what.x[best]), formatY = what.formatY || formatNumber;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", "visible");
    const lines = what.series.filter(({ values }) => values[best] !== null).map(({ name, values }) => [name, formatY(values[best])]);
    showTooltip({ title: what.titleAt(best), lines }, event.clientX, event.clientY);
  }
}

const showTooltip = (described, x, y) => {
  const tip = byId("tooltip");
  tip.hidden = !described;
  if (!described) return;
  tip.replaceChildren(element("div", { class: "tip-title" }, described.title), element("dl", {}, ...described.lines.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
  const { offsetWidth: wide, offsetHeight: high } = tip;
  tip.style.left = `${clamp(x + 16, 4, innerWidth - wide - 8)}px`;
  tip.style.top = `${y + high + 24 > innerHeight ? Math.max(4, y - high - 12) : y + 16}px`;
};
