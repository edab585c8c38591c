// Puts the page together from report and traces.

const { report, traces: packedTraces } = JSON.parse(byId("data").textContent);
const view = new View();
const options = { mode: "activity", picked: new Set(), allArrows: false, layers: report.facts.layers || 1, sequences: report.facts.sequences || 1 };
const state = { step: null, hovered: null, pictures: [], ready: false };

const say = (id, text) => { byId(id).textContent = text; };

const showTooltip = (described, x, y) => {
  const tip = byId("tooltip");
  tip.hidden = !described;
  if (!described) return;
  const colour = ACTIVITIES[theme()][described.activity] || ACTIVITIES[theme()].other;
  tip.replaceChildren(
    element("div", { class: "tip-title" }, element("i", { style: { background: colour } }), described.title, element("b", {}, described.length)),
    element("dl", {}, ...described.lines.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
  );
  const { offsetWidth: wide, offsetHeight: high } = tip;
  tip.style.left = `${clamp(x + 16, 4, innerWidth - wide - 8)}px`;
  tip.style.top = `${y + high + 24 > innerHeight ? Math.max(4, y - high - 12) : y + 16}px`;
};

const pointAt = (wavefront) => (found, x, y) => {
  for (const picture of state.pictures) if (picture instanceof Wavefront) picture.hovered = picture === wavefront ? found : null;
  for (const picture of state.pictures) if (picture instanceof Wavefront && picture !== wavefront) picture.cursor = wavefront.cursor;
  state.hovered = found ? found.row : null;
  const described = found ? wavefront.describe(found) : null;
  showTooltip(described, x, y);
  if (found && document.activeElement === wavefront.canvas) {
    say("spoken", `${described.title}, ${described.length}, ${described.lines.map((line) => line.join(" ")).join(", ")}`);
  }
  view.changed();
};

const showHint = () => {
  const hint = byId("hint");
  hint.textContent = "Ctrl + wheel zooms; drag pans";
  hint.classList.add("shown");
  clearTimeout(showHint.timer);
  showHint.timer = setTimeout(() => hint.classList.remove("shown"), 1100);
};

/** Begin and end of a step over all ranks, in seconds; "" is the whole trace. */
const stepBounds = (trace, step) => {
  const marks = trace.ranks.flatMap((rank) => rank.steps).filter(([number]) => step === "" || `${number}` === `${step}`);
  if (!marks.length) return [0, trace.ticks * trace.tick];
  return [Math.min(...marks.map((mark) => mark[1])) * trace.tick, Math.max(...marks.map((mark) => mark[2])) * trace.tick];
};

const chooseStep = (step) => {
  state.step = step;
  const bounds = stepBounds(state.measured, step);
  const predicted = state.pictures.find((picture) => picture.trace === state.predicted && picture instanceof Wavefront);
  let high = bounds[1];
  if (predicted) {
    const own = stepBounds(state.predicted, "");
    predicted.offset = bounds[0] - own[0];
    if (step !== "") high = Math.max(high, bounds[0] + own[1] - own[0]);
  }
  view.bound(bounds[0], high);
  drawStepBars();
};

const drawStepBars = () => {
  const ranks = new Map(state.measured.ranks.map((rank) => [rank.rank, rank]));
  const rows = report.rank_seconds[state.step === "" ? "all" : state.step] || [];
  if (rows.length) drawBars(byId("bars"), rows, ranks, showTooltip);
};

const drawLegend = () => {
  const shade = theme(), present = new Set(state.measured.kinds.map((kind) => kind.activity));
  if (state.predicted) state.predicted.kinds.forEach((kind) => present.add(kind.activity));
  const key = (name, colour) => element("button", {
    class: `key${options.picked.size && !options.picked.has(name) ? " pale" : ""}`, "aria-pressed": `${options.picked.has(name)}`, title: `Show only ${name}`,
    onclick: () => {
      if (options.picked.has(name)) options.picked.delete(name); else options.picked.add(name);
      refresh();
    },
  }, element("i", { style: { background: colour } }), name);
  let groups;
  if (options.mode === "activity") {
    groups = GROUPS.map(([group, names]) => [group, names.filter((name) => present.has(name)).map((name) => key(name, ACTIVITIES[shade][name]))]);
  } else if (options.mode === "run") {
    groups = [["run", ["forward", "recompute", "backward"].map((run) => key(run, RUNS[shade][run]))], ["", [element("span", { class: "remark" }, "waiting is left blank")]]];
  } else {
    const stops = LAYERS.join(",");
    groups = [["layer", [element("span", { class: "remark" }, "0"), element("span", { class: "ramp", style: { background: `linear-gradient(to right, ${stops})` } }), element("span", { class: "remark" }, `${options.layers - 1}`)]], ["", [element("span", { class: "remark" }, "waiting and communication are pale")]]];
  }
  byId("legend").replaceChildren(...groups.filter(([, keys]) => keys.length).map(([group, keys]) => element("span", { class: "group" }, element("em", {}, group), ...keys)));
};

const drawColours = () => byId("colours").replaceChildren(...["activity", "run", "layer"].map((mode) => element("button", {
  "aria-pressed": `${options.mode === mode}`, "data-mode": mode, onclick: () => { options.mode = mode; options.picked.clear(); refresh(); },
}, mode)));

/** Everything whose colours may have changed. */
const refresh = () => {
  drawColours();
  drawLegend();
  drawStepBars();
  drawHeat();
  state.pictures.forEach((picture) => { picture.key = null; });
  view.changed();
};

const drawHead = () => {
  say("run", report.run);
  say("origin", report.origin);
  byId("origin").classList.add(report.origin);
  say("facts", report.facts_line);
  say("verdict", report.verdict);
  byId("cards").replaceChildren(...report.headline.map((card) => element("div", { class: `card ${card.tone || ""}` },
    element("span", { class: "card-name" }, card.name), element("strong", {}, card.value), element("span", { class: "card-note" }, (card.note || "").replace(/ %/g, "\u00a0%")))));
  byId("cautions").replaceChildren(...report.cautions.map((caution) => element("p", { class: "caution" }, caution)));
  const notes = [...report.notes, packedTraces.measured.cut && `Of the page: ${packedTraces.measured.cut}.`].filter(Boolean);
  byId("notes").replaceChildren(...notes.map((note) => element("p", {}, note)));
};

const drawEnd = () => {
  byId("edges-section").hidden = !report.edges.length;
  if (report.edges.length) drawEdges(byId("edges"), report.edges);
  say("edges-help", "Per step, mean over the traced steps. Waiting for upstream and exposed time hold the receiver up; hidden time costs nothing.");
  byId("layers-part").hidden = !report.layers.length;
  if (report.layers.length) drawLayers(byId("layers"), report.layers);
  byId("predicted-section").hidden = !report.comparison.length;
  say("predicted-heading", `Predicted beside ${report.origin}`);
  if (report.comparison.length) drawComparison(byId("comparison"), report.comparison, report.origin);
  byId("causes").replaceChildren(...report.causes.map((cause) => element("li", {}, cause)));
  const most = Math.max(...report.advice.map((row) => Math.abs(row.gain)), 0.01);
  byId("advice").replaceChildren(...report.advice.map((row) => element("div", { class: `change ${row.gain > 0 ? "better" : "worse"}` },
    element("span", { class: "change-name" }, row.change),
    element("span", { class: "change-bar" }, element("i", { style: { width: `${(Math.abs(row.gain) / most) * 100}%` } })),
    element("span", { class: "change-gain" }, row.text), element("span", { class: "change-note" }, row.note || ""))));
  say("advice-help", report.advice_note);
};

/** The map of edges by layers, with its choices. */
const drawHeat = () => {
  const { heat } = state;
  byId("heat-part").hidden = !heat;
  if (!heat) return;
  const choice = (name, text, key) => element("button", { "aria-pressed": `${heat[key] === name}`, "data-choice": name, onclick: () => { heat[key] = name; drawHeat(); } }, text);
  byId("heat-times").replaceChildren(...HEAT_TIMES.map(([name, text]) => choice(name, text, "time")));
  byId("heat-directions").replaceChildren(choice("forward", "states", "direction"), choice("backward", "gradients", "direction"));
  heat.draw();
  say("heat-scale", `full colour: ${formatSeconds(heat.highest)} in a step`);
};

const cycleTheme = () => {
  const root = document.documentElement, order = ["", "light", "dark"], next = order[(order.indexOf(root.dataset.theme || "") + 1) % 3];
  if (next) root.dataset.theme = next; else delete root.dataset.theme;
  say("theme", `theme: ${next || "auto"}`);
  refresh();
};

const start = async () => {
  drawHead();
  state.measured = await decodeTrace(packedTraces.measured);
  state.predicted = packedTraces.predicted ? await decodeTrace(packedTraces.predicted) : null;
  const measured = new Wavefront(byId("measured"), state.measured, view, options), memory = new MemoryChart(byId("memory"), state.measured, view, () => state.hovered);
  state.pictures = [new Overview(byId("overview"), state.measured, view), measured];
  attachPointer(measured, pointAt(measured), showHint);
  if (state.predicted) {
    const predicted = new Wavefront(byId("predicted-canvas"), state.predicted, view, options);
    state.pictures.push(predicted);
    attachPointer(predicted, pointAt(predicted), showHint);
  }
  byId("show-predicted").hidden = !state.predicted;
  byId("predicted-box").hidden = byId("predicted-title").hidden = byId("measured-title").hidden = !state.predicted;
  say("measured-title", state.measured.origin);
  if (memory.empty) byId("memory-section").hidden = true; else state.pictures.push(memory);
  view.listeners.push(() => state.pictures.filter((picture) => picture.canvas.offsetParent !== null).forEach((picture) => picture.draw()));

  const steps = [...new Set(state.measured.ranks.flatMap((rank) => rank.steps.map(([number]) => number)))];
  byId("step").replaceChildren(...steps.map((step) => element("option", { value: step }, step)), ...(steps.length > 1 ? [element("option", { value: "" }, "all")] : []));
  byId("step").addEventListener("change", (event) => chooseStep(event.target.value));
  byId("arrows").addEventListener("change", (event) => { options.allArrows = event.target.checked; view.changed(); });
  byId("predicted").addEventListener("change", (event) => {
    byId("predicted-box").hidden = byId("predicted-title").hidden = !event.target.checked;
    view.changed();
  });
  byId("zoom-in").addEventListener("click", () => view.glide(...view.zoomed(0.5)));
  byId("zoom-out").addEventListener("click", () => view.glide(...view.zoomed(2)));
  byId("fit").addEventListener("click", () => view.fit());
  byId("theme").addEventListener("click", cycleTheme);
  say("theme", "theme: auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
  new ResizeObserver(() => { view.changed(); drawHeat(); }).observe(byId("wavefront"));
  window.addEventListener("scroll", () => showTooltip(null), { passive: true });

  drawEnd();
  if ((report.cells.source || []).length) state.heat = new HeatMap(byId("heat"), report.cells, showTooltip);
  chooseStep(steps.length ? `${steps[0]}` : "");
  refresh();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    state.ready = true;
    document.documentElement.dataset.ready = "yes";
  }));
};

// For the console of the browser, and for tests.
window.overlapReport = { view, state, options, report };
start().catch((error) => {
  byId("verdict").append(element("strong", {}, ` The pictures could not be drawn: ${error.message}.`));
  document.documentElement.dataset.ready = "failed";
  throw error;
});
