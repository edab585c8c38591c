// Memory over time, and what each rank's time of a step went to.

class MemoryChart {
  constructor(canvas, trace, view, hovered) { Object.assign(this, { canvas, trace, view, hovered, height: 170 }); }

  get empty() { return !this.trace.ranks.some(({ memory }) => memory.time.length > 1); }

  draw() {
    const width = this.canvas.parentElement.clientWidth, gutter = gutterOf(width), { trace, height } = this;
    const context = prepareCanvas(this.canvas, width, height), bottom = height - 6, text = pageColour("--muted");
    const highest = Math.max(...trace.ranks.map(({ memory }) => memory.kib.reduce((most, kib) => Math.max(most, kib), 0))) * 1024 || 1;
    const unit = 1024 ** Math.floor(Math.log2(highest) / 10), distance = roundDistance(highest / unit, 4) * unit;
    const top = Math.ceil(highest / distance) * distance, y = (bytes) => bottom - (bytes / top) * (bottom - 10);
    context.font = `11px ${FONT}`;
    context.textBaseline = "middle";
    for (let mark = 0; mark <= top * 1.001; mark += distance) {
      context.fillStyle = pageColour("--line");
      context.fillRect(gutter, y(mark), width - gutter, 1);
      context.fillStyle = text;
      context.fillText(mark ? formatBytes(mark) : "0", 2, clamp(y(mark), 7, height - 8));
    }
    context.save();
    context.beginPath();
    context.rect(gutter, 0, width - gutter, height);
    context.clip();
    const special = this.hovered();
    trace.ranks.forEach((rank, row) => {
      if (row !== special) this.line(context, rank.memory, gutter, width, y, pageColour("--state"), trace.ranks.length > 12 ? 0.3 : 0.75, 1.2);
    });
    if (special !== null) this.line(context, trace.ranks[special].memory, gutter, width, y, pageColour("--accent"), 1, 2.2);
    context.restore();
    this.markPeak(context, gutter, width, y);
  }

  /** A ring and a word at the largest memory of the time that is shown. */
  markPeak(context, gutter, width, y) {
    const { view, trace } = this, first = view.begin / trace.tick, last = view.end / trace.tick;
    let best = null;
    trace.ranks.forEach(({ memory, rank }) => {
      for (let i = after(memory.time, first); i < memory.time.length && memory.time[i] < last; i += 1) {
        if (!best || memory.kib[i] > best.kib) best = { kib: memory.kib[i], time: memory.time[i], rank };
      }
    });
    if (!best) return;
    const x = gutter + ((best.time * trace.tick - view.begin) / view.length) * (width - gutter), at = y(best.kib * 1024);
    const text = `${formatBytes(best.kib * 1024)} on rank ${best.rank}`;
    context.strokeStyle = context.fillStyle = pageColour("--text");
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, at, 4, 0, 7);
    context.stroke();
    context.fillText(text, clamp(x + 9, gutter, width - context.measureText(text).width - 4), Math.min(at + 14, this.height - 8));
  }

  line(context, memory, gutter, width, y, colour, alpha, thick) {
    const { view, trace } = this, x = (tick) => gutter + ((tick * trace.tick - view.begin) / view.length) * (width - gutter);
    const first = Math.max(0, after(memory.time, view.begin / trace.tick) - 1);
    context.strokeStyle = colour;
    context.globalAlpha = alpha;
    context.lineWidth = thick;
    context.lineJoin = "round";
    context.beginPath();
    let height = null;
    for (let i = first; i < memory.time.length; i += 1) {
      const at = x(memory.time[i]);
      if (height !== null) context.lineTo(at, height);
      height = y(memory.kib[i] * 1024);
      context.lineTo(at, height);
      if (at > width) break;
    }
    if (height !== null) context.lineTo(width, height);
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** A bar per rank; `rows` are [rank, {activity: seconds}]. */
const drawBars = (box, rows, ranks, hover) => {
  const longest = Math.max(...rows.map(([, seconds]) => sum(Object.values(seconds)))) || 1, colours = ACTIVITIES[theme()];
  const order = GROUPS.flatMap(([, names]) => names), thin = rows.length > 24;
  box.classList.toggle("thin", thin);
  box.replaceChildren(...rows.map(([rank, seconds]) => {
    const whole = sum(Object.values(seconds)), busy = sum(Object.entries(seconds).filter(([name]) => ["work", "update"].includes(GROUP_OF[name])).map(([, value]) => value));
    const segments = order.filter((name) => seconds[name] > 0).map((name) => element("span", {
      style: { width: `${(seconds[name] / longest) * 100}%`, background: colours[name] },
      onpointermove: (event) => hover({ title: name, length: formatSeconds(seconds[name], 4), lines: [["rank", `${rank}`], ["share", formatShare(seconds[name] / whole)]], activity: name }, event.clientX, event.clientY),
      onpointerleave: () => hover(null),
    }));
    const label = `rank ${rank}${ranks.get(rank) && ranks.get(rank).host ? ` \u00b7 ${ranks.get(rank).host}` : ""}`;
    return element("div", { class: "bar-row", role: "img", "aria-label": `${label}: ${formatShare(busy / whole)} busy` },
      element("span", { class: "bar-name" }, label), element("span", { class: "bar-whole" }, ...segments), element("span", { class: "bar-end" }, `${formatShare(busy / whole)} busy`));
  }));
};
