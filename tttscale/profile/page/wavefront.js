// Ranks by time. Each rank is a row of pixels in which every pixel has the mean colour of what happened in it,
// so a step of a hundred thousand spans shows its true mixture; what is wide enough gets an outline and a name.

class Wavefront {
  /** `offset` is added to the trace's seconds, so that a predicted step begins with the measured one. */
  constructor(canvas, trace, view, options) {
    Object.assign(this, { canvas, trace, view, options, offset: 0, hovered: null, cursor: null, texture: document.createElement("canvas") });
  }

  measure() {
    const width = this.canvas.parentElement.clientWidth, rows = this.trace.ranks.length;
    const height = clamp(Math.floor(Math.max(260, Math.min(560, innerHeight * 0.58)) / rows), rows > 160 ? 2 : rows > 80 ? 4 : 7, rows <= 4 ? 72 : 46);
    Object.assign(this, { width, gutter: gutterOf(width), rowHeight: height, height: rows * height + 2 });
    this.gap = height >= 20 ? 4 : height >= 12 ? 2 : height >= 6 ? 1 : 0;
    this.lane = height >= 30 ? 12 : height >= 16 ? 4 : height >= 11 ? 2 : 0;
  }

  x(seconds) { return this.gutter + ((seconds - this.view.begin) / this.view.length) * (this.width - this.gutter); }
  secondsAt(x) { return this.view.begin + ((x - this.gutter) / (this.width - this.gutter)) * this.view.length; }
  seconds(tick) { return tick * this.trace.tick + this.offset; }
  tickAt(seconds) { return (seconds - this.offset) / this.trace.tick; }
  top(row) { return row * this.rowHeight + 1; }

  draw() {
    this.measure();
    const context = prepareCanvas(this.canvas, this.width, this.height), { gutter, width } = this;
    const back = pageColour("--lane"), text = pageColour("--text");
    this.waiting = this.trace.kinds.map(({ activity }) => GROUP_OF[activity] === "waiting");
    this.paint = new Paint(this.trace, this.options.mode, this.options.picked, this.options.layers);
    this.shown = { labels: [], edges: [], tasks: [], waits: [], spans: 0 };
    this.fillTexture(rgb(back));
    context.imageSmoothingEnabled = false;
    this.trace.ranks.forEach((rank, row) => {
      const y = this.top(row), plot = width - gutter, body = this.rowHeight - this.gap - this.lane;
      if (this.lane) context.drawImage(this.texture, 0, 2 * row, this.texture.width, 1, gutter, y, plot, this.lane);
      context.drawImage(this.texture, 0, 2 * row + 1, this.texture.width, 1, gutter, y + this.lane, plot, body);
    });
    this.drawEdges(context, back);
    this.drawHatching(context);
    context.fillStyle = text;
    context.globalAlpha = 0.18;
    for (const mark of timeMarks(this.view, gutter, width)) context.fillRect(mark.x, 0, 1, this.height);
    context.globalAlpha = 1;
    this.drawLabels(context);
    this.drawNames(context, text);
    this.drawArrows(context);
    this.drawPointed(context, text);
  }

  fillTexture(back) {
    const { ranks, tick } = this.trace, wide = Math.max(1, Math.round((this.width - this.gutter) * (window.devicePixelRatio || 1)));
    this.texture.width = wide;
    this.texture.height = 2 * ranks.length;
    const context = this.texture.getContext("2d"), image = context.createImageData(wide, 2 * ranks.length);
    const first = this.tickAt(this.view.begin), scale = (wide * tick) / this.view.length, last = this.tickAt(this.view.end);
    const ratio = wide / (this.width - this.gutter), sums = new Float32Array(3 * wide), runs = new Float32Array(3 * wide), covered = new Float32Array(wide);
    ranks.forEach(({ spans }, row) => {
      sums.fill(0); runs.fill(0); covered.fill(0);
      for (let i = Math.max(0, after(spans.begin, first) - 1); i < spans.n && spans.begin[i] < last; i += 1) {
        const from = Math.max(0, (spans.begin[i] - first) * scale), to = Math.min(wide, (spans.end[i] - first) * scale);
        if (to <= from) continue;
        const colour = this.paint.of(spans, i), run = this.paint.runs[spans.kind[i]];
        for (let pixel = Math.floor(from); pixel < to; pixel += 1) {
          const share = Math.min(to, pixel + 1) - Math.max(from, pixel), at = 3 * pixel;
          sums[at] += share * colour[0]; sums[at + 1] += share * colour[1]; sums[at + 2] += share * colour[2];
          runs[at] += share * run[0]; runs[at + 1] += share * run[1]; runs[at + 2] += share * run[2];
          covered[pixel] += share;
        }
        this.note(row, i, from / ratio, to / ratio);
      }
      for (let pixel = 0; pixel < wide; pixel += 1) {
        const rest = Math.max(0, 1 - covered[pixel]);
        for (let c = 0; c < 3; c += 1) {
          image.data[8 * row * wide + 4 * pixel + c] = runs[3 * pixel + c] + rest * back[c];
          image.data[(8 * row + 4) * wide + 4 * pixel + c] = sums[3 * pixel + c] + rest * back[c];
        }
        image.data[8 * row * wide + 4 * pixel + 3] = image.data[(8 * row + 4) * wide + 4 * pixel + 3] = 255;
      }
    });
    context.putImageData(image, 0, 0);
  }

  /** Remember what is wide enough to be outlined or named. */
  note(row, i, from, to) {
    const { spans } = this.trace.ranks[row], { tasks, labels, edges } = this.shown, last = tasks[tasks.length - 1];
    this.shown.spans += 1;
    const run = this.trace.kinds[spans.kind[i]].run;
    if (last && last.row === row && last.run === run && last.chunk === spans.chunk[i] && last.sequence === spans.sequence[i]) last.to = to;
    else tasks.push({ row, run, chunk: spans.chunk[i], sequence: spans.sequence[i], from, to });
    if (to - from > 7 && edges.length < 8000) edges.push([row, from]);
    if (to - from > 5 && this.waiting[spans.kind[i]] && this.shown.waits.length < 6000) this.shown.waits.push([row, from, to]);
    if (to - from > 30 && labels.length < 3000) labels.push([row, i, from, to]);
  }

  drawEdges(context, back) {
    context.fillStyle = back;
    for (const [row, from] of this.shown.edges) context.fillRect(this.gutter + from - 0.5, this.top(row) + this.lane, 1, this.rowHeight - this.gap - this.lane);
    for (const { row, from, to } of this.shown.tasks) if (to - from > 12 && this.rowHeight > 11) context.fillRect(this.gutter + from - 0.5, this.top(row), 1, this.rowHeight - this.gap);
  }

  /** Waiting is hatched, so that it is told from work without colours too. */
  drawHatching(context) {
    if (this.rowHeight < 9) return;
    context.save();
    context.beginPath();
    for (const [row, from, to] of this.shown.waits) context.rect(this.gutter + from, this.top(row) + this.lane, to - from, this.rowHeight - this.gap - this.lane);
    context.clip();
    context.strokeStyle = theme() === "dark" ? "rgba(0, 0, 0, 0.3)" : "rgba(255, 255, 255, 0.45)";
    context.lineWidth = 2;
    context.beginPath();
    const spacing = 9, high = this.rowHeight - this.gap - this.lane;
    for (const [row, from, to] of this.shown.waits) {
      const y = this.top(row) + this.lane, left = this.gutter + from;
      for (let x = left - high - ((left - high) % spacing); x < this.gutter + to; x += spacing) {
        context.moveTo(x, y + high);
        context.lineTo(x + high, y);
      }
    }
    context.stroke();
    context.restore();
  }

  drawLabels(context) {
    context.textBaseline = "middle";
    const body = this.rowHeight - this.gap - this.lane, { sequences } = this.options;
    if (body >= 12) {
      context.font = `${clamp(body * 0.42, 10, 12)}px ${FONT}`;
      for (const [row, i, from, to] of this.shown.labels) {
        const { spans } = this.trace.ranks[row], { activity, part } = this.trace.kinds[spans.kind[i]];
        const name = part && activity !== "project" ? `${activity} ${part}` : activity;
        this.write(context, spans.layer[i] < 0 ? [name] : [`${name} \u00b7 layer ${spans.layer[i]}`, name], from, to, this.top(row) + this.lane + body / 2, this.paint.of(spans, i));
      }
    }
    if (this.lane < 9) return;
    context.font = `9px ${FONT}`;
    const colours = Object.fromEntries(Object.entries(RUNS[theme()]).map(([run, colour]) => [run, rgb(colour)]));
    for (const { row, run, chunk, sequence, from, to } of this.shown.tasks) {
      if (chunk < 0) continue;
      const place = sequences > 1 ? `${sequence}.${chunk}` : `${chunk}`;
      this.write(context, [`${run} of chunk ${place}`, `${SHORT_RUNS[run] || run} ${place}`, place], from, to, this.top(row) + this.lane / 2 + 0.5, colours[run] || colours[""]);
    }
  }

  /** The longest of the texts that fits between two places. */
  write(context, texts, from, to, y, colour) {
    const text = texts.find((candidate) => context.measureText(candidate).width < to - from - 6);
    if (!text) return;
    context.fillStyle = isLight(colour) ? "#10151c" : "#ffffff";
    context.fillText(text, this.gutter + from + 4, y);
  }

  drawNames(context, text) {
    context.fillStyle = text;
    context.textBaseline = "middle";
    context.font = `${clamp(this.rowHeight - 2, 8, 12)}px ${FONT}`;
    const hosts = new Set(this.trace.ranks.map((rank) => rank.host)), every = Math.ceil(10 / this.rowHeight);
    this.trace.ranks.forEach((rank, row) => {
      if (row % every) return;
      const name = this.gutter < 100 ? `${rank.rank}` : hosts.size > 1 && this.rowHeight >= 11 ? `${rank.rank} \u00b7 ${rank.host}` : `rank ${rank.rank}`;
      let shown = name;
      while (shown.length > 3 && context.measureText(shown).width > this.gutter - 10) shown = `${shown.slice(0, -2)}\u2026`;
      context.globalAlpha = rank.replica % 2 ? 0.7 : 1;
      context.fillText(shown, 2, this.top(row) + (this.rowHeight - this.gap) / 2 + 0.5);
    });
    context.globalAlpha = 1;
  }

  drawArrows(context) {
    const { arrows } = this.trace, first = this.tickAt(this.view.begin), last = this.tickAt(this.view.end), inside = [];
    for (let i = 0; i < arrows.n && arrows.sent[i] < last; i += 1) if (arrows.received[i] > first) inside.push(i);
    this.shown.arrows = 0;
    const dense = inside.length > Math.min(350, ((this.width - this.gutter) / 28) * Math.min(8, this.trace.ranks.length));
    if (dense && !this.options.allArrows) return;
    context.lineWidth = dense ? 0.6 : 1.2;
    context.globalAlpha = dense ? 0.45 : 0.85;
    for (const i of inside) this.drawArrow(context, i, !dense);
    context.globalAlpha = 1;
  }

  drawArrow(context, i, head = true) {
    const { arrows, kinds } = this.trace, down = arrows.target[i] > arrows.source[i], body = this.rowHeight - this.gap;
    const from = [this.x(this.seconds(arrows.sent[i])), this.top(arrows.source[i]) + (down ? body : 0)];
    const to = [this.x(this.seconds(arrows.received[i])), this.top(arrows.target[i]) + (down ? 0 : body)];
    const bend = Math.min(60, Math.abs(to[0] - from[0]) / 2 + 4);
    context.strokeStyle = context.fillStyle = pageColour(kinds[arrows.kind[i]].run === "backward" ? "--gradient" : "--state");
    context.save();
    context.beginPath();
    context.rect(this.gutter, 0, this.width - this.gutter, this.height);
    context.clip();
    context.beginPath();
    context.moveTo(...from);
    context.bezierCurveTo(from[0] + bend, from[1], to[0] - bend, to[1], ...to);
    context.stroke();
    if (head) {
      context.beginPath();
      context.arc(...from, 2, 0, 7);
      context.fill();
      context.beginPath();
      context.moveTo(...to);
      context.lineTo(to[0] - 4, to[1] + (down ? -6 : 6));
      context.lineTo(to[0] + 4, to[1] + (down ? -6 : 6));
      context.fill();
    }
    context.restore();
    this.shown.arrows += 1;
  }

  drawPointed(context, text) {
    if (this.cursor !== null) {
      context.fillStyle = text;
      context.globalAlpha = 0.35;
      context.fillRect(this.x(this.cursor), 0, 1, this.height);
      context.globalAlpha = 1;
    }
    if (this.range) {
      context.fillStyle = pageColour("--accent");
      context.globalAlpha = 0.22;
      context.fillRect(this.x(this.range[0]), 0, this.x(this.range[1]) - this.x(this.range[0]), this.height);
      context.globalAlpha = 1;
    }
    if (!this.hovered) return;
    const { row, i } = this.hovered, { spans } = this.trace.ranks[row], y = this.top(row) + this.lane;
    const from = Math.max(this.gutter, this.x(this.seconds(spans.begin[i]))), to = Math.max(from + 1, this.x(this.seconds(spans.end[i])));
    context.strokeStyle = text;
    context.lineWidth = 2;
    context.strokeRect(from, y, to - from, this.rowHeight - this.gap - this.lane);
    context.lineWidth = 1.8;
    for (const arrow of this.arrowsOf(row, i)) this.drawArrow(context, arrow);
  }

  /** Carries that end or begin in a span. */
  arrowsOf(row, i) {
    const { arrows, ranks } = this.trace, { spans } = ranks[row], found = [];
    for (let k = 0; k < arrows.n; k += 1) {
      const ends = arrows.target[k] === row && arrows.received[k] > spans.begin[i] && arrows.received[k] <= spans.end[i];
      const begins = arrows.source[k] === row && arrows.sent[k] >= spans.begin[i] && arrows.sent[k] < spans.end[i];
      if ((ends || begins) && found.length < 60) found.push(k);
    }
    return found;
  }

  /** The span at a place of the canvas, in CSS pixels; null beside all. */
  find(x, y) {
    const row = Math.floor((y - 1) / this.rowHeight);
    if (x < this.gutter || row < 0 || row >= this.trace.ranks.length) return null;
    const { spans } = this.trace.ranks[row], tick = this.tickAt(this.secondsAt(x)), pixel = (this.view.length / (this.width - this.gutter)) / this.trace.tick;
    let best = Math.max(0, after(spans.begin, tick) - 1);
    // Among those within a pixel the longest is meant.
    for (let i = after(spans.begin, tick - pixel); i < spans.n && spans.begin[i] < tick + pixel; i += 1) {
      if (spans.end[best] <= tick - pixel || spans.end[i] - spans.begin[i] > spans.end[best] - spans.begin[best]) best = i;
    }
    return spans.n && spans.begin[best] <= tick + pixel && spans.end[best] >= tick - pixel ? { row, i: best } : null;
  }

  describe({ row, i }) {
    const rank = this.trace.ranks[row], { spans } = rank, { activity, run, part } = this.trace.kinds[spans.kind[i]];
    const length = (spans.end[i] - spans.begin[i]) * this.trace.tick, lines = [["rank", `${rank.rank}${rank.host ? ` on ${rank.host}` : ""}`]];
    if (run) lines.push(["run", run]);
    if (spans.chunk[i] >= 0) lines.push(["chunk", this.options.sequences > 1 ? `${spans.chunk[i]} of sequence ${spans.sequence[i]}` : `${spans.chunk[i]}`]);
    if (spans.layer[i] >= 0) lines.push(["layer", `${spans.layer[i]}`]);
    if (part) lines.push(["part", part]);
    lines.push(["begins at", formatSeconds(this.seconds(spans.begin[i]) - this.view.low, 5)]);
    const { arrows, ranks, tick } = this.trace;
    const carries = activity === "wait" || activity === "send" ? this.arrowsOf(row, i).slice(0, 3) : [];
    for (const k of carries) {
      const other = arrows.target[k] === row ? ["from", arrows.source[k]] : ["to", arrows.target[k]];
      lines.push([other[0], `rank ${ranks[other[1]].rank}, ${formatSeconds((arrows.received[k] - arrows.sent[k]) * tick)} from send to receive`]);
    }
    return { title: part ? `${activity} ${part}` : activity, length: formatSeconds(length, 4), lines, activity };
  }
}
