// Colours: blue is work (the darker, the closer to the chain that others wait for), orange is waiting, magenta
// and purple are communication, green is the update. Hues and lightness both differ, for every kind of eye.

const GROUPS = [
  ["work", ["project", "advance", "readout", "finish", "embed", "head"]],
  ["waiting", ["wait", "idle", "data", "flush"]],
  ["communication", ["send", "reduce", "gather"]],
  ["update", ["optimizer"]],
  ["other", ["mixed", "evaluate", "checkpoint", "record", "other"]],
];
const GROUP_OF = Object.fromEntries(GROUPS.flatMap(([group, names]) => names.map((name) => [name, group])));

const ACTIVITIES = {
  light: {
    project: "#3f83d6", advance: "#0a2d66", readout: "#83b4ee", finish: "#bcd7f7", embed: "#5fb5b0", head: "#1d8480",
    wait: "#ee5b00", idle: "#ffd9b8", data: "#f5b800", flush: "#a83b00",
    send: "#c4319b", reduce: "#7240a8", gather: "#b596dc", optimizer: "#3d7a2e",
    mixed: "#8398b0", evaluate: "#a9a9a9", checkpoint: "#8a8a8a", record: "#c4c4c4", other: "#d9dce0",
  },
  dark: {
    project: "#4489dd", advance: "#d7e8ff", readout: "#2f62a6", finish: "#1f4272", embed: "#2f8884", head: "#56c2bb",
    wait: "#ff7a1f", idle: "#5a3a22", data: "#ffcb30", flush: "#d8763c",
    send: "#ea6cc8", reduce: "#a678e0", gather: "#7452a3", optimizer: "#7cbf68",
    mixed: "#66788e", evaluate: "#8d8d8d", checkpoint: "#adadad", record: "#6c6c6c", other: "#3b424c",
  },
};
const RUNS = {
  light: { forward: "#2f9c95", recompute: "#c9bb6b", backward: "#6a3d9a", "": "#d9dce0" },
  dark: { forward: "#3fb8b0", recompute: "#a89a4c", backward: "#a984d8", "": "#343b45" },
};
const SHORT_RUNS = { forward: "fwd", recompute: "redo", backward: "bwd" };
const GROUP_COLOURS = {
  light: { work: "#3f83d6", waiting: "#ee5b00", communication: "#9b3ba3", update: "#3d7a2e", other: "#c9ced6" },
  dark: { work: "#4489dd", waiting: "#ff7a1f", communication: "#c974d8", update: "#7cbf68", other: "#4b535f" },
};
// From dark blue over green to yellow, even in lightness.
const LAYERS = ["#352a87", "#1f5fa8", "#1b8a9c", "#2bab80", "#7dc45a", "#d8d24a", "#f9f1a0"];

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const mix = (from, to, share) => from.map((value, i) => value + (to[i] - value) * share);
const css = (colour) => `rgb(${colour.map(Math.round).join(",")})`;
const isLight = (colour) => 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140;

const layerColour = (layer, layers) => {
  const place = layers > 1 ? (layer / (layers - 1)) * (LAYERS.length - 1) : 0;
  const low = Math.min(LAYERS.length - 2, Math.floor(place));
  return mix(rgb(LAYERS[low]), rgb(LAYERS[low + 1]), place - low);
};

const theme = () => {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
};
const pageColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** What colours spans: `mode` is activity, run or layer; names outside `picked` are paler, if there are any. */
class Paint {
  constructor(trace, mode, picked, layers) {
    const shade = theme(), back = rgb(pageColour("--lane"));
    this.byLayer = mode === "layer";
    const paler = (colour, name) => (picked.size && !picked.has(name) ? mix(colour, back, 0.86) : colour);
    this.runs = trace.kinds.map(({ run }) => rgb(RUNS[shade][run] || RUNS[shade][""]));
    this.kinds = trace.kinds.map(({ activity, run }) => {
      if (mode === "run") return paler(GROUP_OF[activity] === "waiting" ? back : rgb(RUNS[shade][run] || RUNS[shade][""]), run);
      const colour = rgb(ACTIVITIES[shade][activity] || ACTIVITIES[shade].other);
      if (mode === "layer") return GROUP_OF[activity] === "work" ? null : mix(colour, back, 0.72);
      return paler(colour, activity);
    });
    this.layers = Array.from({ length: layers }, (_, layer) => layerColour(layer, layers));
    this.plain = rgb(ACTIVITIES[shade].other);
  }

  of(spans, i) {
    return this.kinds[spans.kind[i]] || this.layers[spans.layer[i]] || this.plain;
  }
}
