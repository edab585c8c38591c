// Edges by layers: where in the model and between which ranks hand-overs cost time.

const HEAT_TIMES = [["upstream_seconds", "waited for upstream"], ["exposed_seconds", "exposed"], ["wire_seconds", "on the wire"], ["hidden_seconds", "hidden"]];

class HeatMap {
  constructor(canvas, cells, hover) {
    Object.assign(this, { canvas, cells, time: "exposed_seconds", direction: "forward" });
    const keys = cells.source.map((source, i) => `${source} \u2192 ${cells.target[i]}`);
    this.layers = Math.max(...cells.layer) + 1;
    this.rowsOf = (direction) => [...new Set(keys.filter((_, i) => cells.direction[i] === direction))];
    this.keys = keys;
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), found = this.find(event.clientX - box.left, event.clientY - box.top);
      hover(found && this.describe(found), event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", () => hover(null));
  }

  draw() {
    const { cells, time, direction, keys } = this, rows = this.rowsOf(direction), width = this.canvas.parentElement.clientWidth, gutter = gutterOf(width);
    const high = clamp(Math.floor(420 / Math.max(1, rows.length)), 4, 22), wide = Math.min(64, (width - gutter) / this.layers), below = 18;
    Object.assign(this, { rows, gutter, high, wide });
    const context = prepareCanvas(this.canvas, width, rows.length * high + below), place = new Map(rows.map((row, i) => [row, i]));
    const chosen = keys.map((_, i) => i).filter((i) => cells.direction[i] === direction);
    this.highest = Math.max(...chosen.map((i) => cells[time][i]), 0) || 1;
    const [from, to] = [rgb(pageColour("--lane")), rgb(pageColour(TIMES.find((column) => column.key === time).bar))];
    for (const i of chosen) {
      context.fillStyle = css(mix(from, to, Math.sqrt(cells[time][i] / this.highest)));
      context.fillRect(gutter + cells.layer[i] * wide, place.get(keys[i]) * high, wide - (wide > 6 ? 1 : 0), high - (high > 6 ? 1 : 0));
    }
    context.fillStyle = pageColour("--muted");
    context.font = `${clamp(high - 2, 8, 11)}px ${FONT}`;
    context.textBaseline = "middle";
    const every = Math.ceil(11 / high);
    rows.forEach((row, i) => { if (i % every === 0) context.fillText(row, 2, (i + 0.5) * high); });
    context.font = `11px ${FONT}`;
    const step = Math.ceil(46 / wide);
    for (let layer = 0; layer < this.layers; layer += step) context.fillText(`layer ${layer}`, gutter + layer * wide, rows.length * high + below / 2 + 2);
  }

  find(x, y) {
    const layer = Math.floor((x - this.gutter) / this.wide), row = this.rows && this.rows[Math.floor(y / this.high)], { cells, keys } = this;
    if (x < this.gutter || row === undefined) return null;
    const i = keys.findIndex((key, k) => key === row && cells.layer[k] === layer && cells.direction[k] === this.direction);
    return i < 0 ? null : { i };
  }

  describe({ i }) {
    const { cells, keys } = this, lines = [["layer", `${cells.layer[i]}`], ...HEAT_TIMES.map(([key, name]) => [name, formatSeconds(cells[key][i])])];
    return { title: keys[i], length: cells.direction[i] === "forward" ? "states" : "gradients", lines, activity: "wait" };
  }
}
