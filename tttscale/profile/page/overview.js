// The whole step above the wavefront: at every moment the share of ranks that work, wait, communicate or update;
// the window on it can be moved and resized. Below it the time axis of what is shown.

class Overview {
  constructor(canvas, trace, view) {
    Object.assign(this, { canvas, trace, view, shares: null, height: 46, axis: 20, drag: null });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => { this.drag = null; });
    canvas.addEventListener("pointercancel", () => { this.drag = null; });
    canvas.addEventListener("dblclick", () => view.fit());
  }

  /** Coverage of each group, in pixels of the step. */
  count() {
    const { view, trace } = this, wide = Math.max(1, Math.round(this.plot)), key = `${view.low},${view.high},${wide}`;
    if (this.key === key) return;
    this.key = key;
    const names = GROUPS.map(([name]) => name), group = trace.kinds.map(({ activity }) => Math.max(0, names.indexOf(GROUP_OF[activity] || "other")));
    this.shares = names.map(() => new Float32Array(wide));
    const first = view.low / trace.tick, scale = (wide * trace.tick) / (view.high - view.low), last = view.high / trace.tick;
    for (const { spans } of trace.ranks) {
      for (let i = Math.max(0, after(spans.begin, first) - 1); i < spans.n && spans.begin[i] < last; i += 1) {
        const from = Math.max(0, (spans.begin[i] - first) * scale), to = Math.min(wide, (spans.end[i] - first) * scale), share = this.shares[group[spans.kind[i]]];
        for (let pixel = Math.floor(from); pixel < to; pixel += 1) share[pixel] += (Math.min(to, pixel + 1) - Math.max(from, pixel)) / trace.ranks.length;
      }
    }
  }

  get plot() { return this.width - this.gutter; }
  x(seconds) { return this.gutter + ((seconds - this.view.low) / (this.view.high - this.view.low)) * this.plot; }
  secondsAt(x) { return this.view.low + ((x - this.gutter) / this.plot) * (this.view.high - this.view.low); }

  draw() {
    this.width = this.canvas.parentElement.clientWidth;
    this.gutter = gutterOf(this.width);
    this.count();
    const context = prepareCanvas(this.canvas, this.width, this.height + this.axis), colours = GROUP_COLOURS[theme()], text = pageColour("--muted");
    context.fillStyle = pageColour("--lane");
    context.fillRect(this.gutter, 0, this.plot, this.height);
    for (let pixel = 0; pixel < this.shares[0].length; pixel += 1) {
      let y = this.height;
      GROUPS.forEach(([name], i) => {
        const high = this.shares[i][pixel] * this.height;
        if (high <= 0) return;
        context.fillStyle = colours[name];
        context.fillRect(this.gutter + (pixel * this.plot) / this.shares[0].length, y - high, this.plot / this.shares[0].length + 0.5, high);
        y -= high;
      });
    }
    const [from, to] = [this.x(this.view.begin), this.x(this.view.end)];
    context.fillStyle = pageColour("--veil");
    context.fillRect(this.gutter, 0, from - this.gutter, this.height);
    context.fillRect(to, 0, this.width - to, this.height);
    context.strokeStyle = pageColour("--text");
    context.lineWidth = 1.5;
    context.strokeRect(from + 0.75, 0.75, Math.max(2, to - from - 1.5), this.height - 1.5);
    context.fillStyle = text;
    context.font = `11px ${FONT}`;
    context.textBaseline = "middle";
    context.fillText(this.gutter < 100 ? "ranks" : "share of ranks", 2, this.height / 2);
    for (const mark of timeMarks(this.view, this.gutter, this.width)) {
      context.fillRect(mark.x, this.height + 3, 1, 5);
      const half = context.measureText(mark.text).width / 2;
      context.fillText(mark.text, clamp(mark.x - half, this.gutter - 8, this.width - 2 * half), this.height + 14);
    }
  }

  down(event) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, { view } = this;
    if (x < this.gutter) return;
    this.canvas.setPointerCapture(event.pointerId);
    const near = (seconds) => Math.abs(this.x(seconds) - x) < 7, whole = view.length > 0.999 * (view.high - view.low);
    if (!whole && near(view.begin)) this.drag = { edge: "begin" };
    else if (!whole && near(view.end)) this.drag = { edge: "end" };
    else if (!whole && x > this.x(view.begin) && x < this.x(view.end)) this.drag = { held: this.secondsAt(x) - view.begin };
    else this.drag = { from: this.secondsAt(x) };
  }

  move(event) {
    if (!this.drag) return;
    const at = this.secondsAt(event.clientX - this.canvas.getBoundingClientRect().left), { view, drag } = this;
    if (drag.edge === "begin") view.show(Math.min(at, view.end), view.end);
    else if (drag.edge === "end") view.show(view.begin, Math.max(at, view.begin));
    else if (drag.held !== undefined) view.show(at - drag.held, at - drag.held + view.length);
    else if (Math.abs(this.x(at) - this.x(drag.from)) > 4) view.show(Math.min(at, drag.from), Math.max(at, drag.from));
  }
}
