// What the page shows of a snapshot, and asking for the next one.

const embedded = JSON.parse(byId("data").textContent);
const page = { snapshot: embedded.snapshot, share: 1, charts: {}, polls: 0, lost: false };
const say = (id, text) => { byId(id).textContent = text; };
const tokens = (value) => (value === null ? "–" : formatNumber(value));
const formatAge = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= 2 * size) return `${Number((seconds / size).toPrecision(2))} ${unit}`;
  return `${Math.round(seconds)} s`;
};
const binary = (value) => {
  for (const [unit, size] of [["Mi", 1 << 20], ["Ki", 1 << 10]]) if (value >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  return `${value}`;
};

const card = (name, value, note, tone) => element("div", { class: `card ${tone || ""}` }, element("span", { class: "card-name" }, name), element("strong", {}, value), element("span", { class: "card-note" }, note || ""));

const drawHead = () => {
  const { snapshot } = page, { status, recent } = snapshot, badge = byId("state");
  say("run", snapshot.run);
  const shown = page.lost ? "connection lost" : status.state;
  badge.textContent = shown;
  badge.className = `badge ${page.lost ? "lost" : status.state.split(" ")[0]}`;
  document.title = `${status.steps ? `${Math.floor((100 * status.step) / status.steps)} % ` : ""}${snapshot.run}: ${shown}`;
  say("says", [status.says, status.next && `next: ${status.next}`].filter(Boolean).join(" · "));
  const failed = [status.failed, status.exit_code && `exit code ${status.exit_code}: ${status.meaning || "unknown"}`].filter(Boolean).join(" · ");
  byId("failed").hidden = !failed;
  say("failed", failed);
  const share = status.steps ? Math.min(1, status.step / status.steps) : 0, progress = byId("progress");
  progress.hidden = !status.steps;
  progress.firstElementChild.style.width = `${share * 100}%`;
  progress.setAttribute("aria-valuenow", Math.floor(share * 100));
  const left = status.steps && status.steps_per_hour && status.state === "running" ? ((status.steps - status.step) / status.steps_per_hour) * 3600 : null;
  const waits = ["ramp_share", "starved_share", "idle_share", "data_share"].map((key) => recent[key] || 0);
  byId("cards").replaceChildren(
    card("step", `${status.step}`, [status.steps && `of ${status.steps}`, left && `about ${formatAge(left)} left`].filter(Boolean).join(", ")),
    card("loss", formatNumber(recent.loss), recent.steps ? `mean of the last ${recent.steps} steps; last ${formatNumber(recent.last_loss)}` : "nats per token"),
    card("held-out loss", formatNumber(recent.last_heldout_loss), recent.last_heldout_loss === null ? "not measured yet" : "nats per token, the last one"),
    card("tokens per second", formatNumber(recent.tokens_per_second, 3), `${formatNumber(recent.last_tokens, 3)} tokens so far${recent.mfu === null ? "" : `; ${formatShare(recent.mfu)} of the devices' peak`}`),
    card("waits", recent.step_seconds === null ? "–" : formatShare(sum(waits)), recent.exposed_comm_seconds === null ? "" : `of the time; exposed communication ${formatSeconds(recent.exposed_comm_seconds)} a step`, sum(waits) > 0.25 ? "attention" : ""),
    card("last checkpoint", status.checkpoint_step === null ? "none" : `step ${status.checkpoint_step}`, status.checkpoint_step === null ? "" : `${formatAge(status.checkpoint_age_seconds)} old`),
  );
  byId("attempts-section").hidden = !status.attempts.length;
  byId("attempts").replaceChildren(...status.attempts.map((line) => element("li", {}, line)));
  say("notes", `${embedded.pollSeconds === null ? "As it was when this file was written" : "Live"}; the last record is ${formatAge(status.record_age_seconds)} old. ${snapshot.reading < 1 ? `Reading the metrics: ${formatShare(snapshot.reading)}.` : ""}`);
};

/** The columns of the last part of the steps. */
const part = (columns) => {
  const last = columns.step.length ? columns.step[columns.step.length - 1] : 0, first = last * (1 - page.share);
  const kept = columns.step.map((_, i) => i).filter((i) => columns.step[i] >= first);
  return Object.fromEntries(Object.entries(columns).map(([key, value]) => [key, Array.isArray(value) ? kept.map((i) => value[i]) : value]));
};

const titleAt = (columns) => (i) => (columns.width > 1 ? `steps ${Math.ceil(columns.step[i] - columns.width / 2)} to ${Math.floor(columns.step[i] + columns.width / 2 - 0.25)}` : `step ${columns.step[i]}`);

/** Held-out losses put to the x of the training losses, which has a place for each of them. */
const heldoutAt = (columns, heldout) => {
  const found = columns.step.map(() => null);
  let at = 0;
  heldout.step.forEach((step, n) => {
    if (!columns.step.length || step < columns.step[0] - columns.width) return;
    while (at < columns.step.length - 1 && Math.abs(columns.step[at + 1] - step) <= Math.abs(columns.step[at] - step)) at += 1;
    found[at] = heldout.heldout_loss[n];
  });
  return found;
};

/** The top of the axis of losses where there are many steps: the first ones, which are high, may lie above it. */
const mostOf = (losses, count) => {
  if (count < 100 || page.share < 1) return undefined;
  const later = losses.filter((value, i) => value !== null && i % count >= count / 20);
  const lowest = Math.min(...later), most = Math.max(...later) + 0.35 * (Math.max(...later) - lowest);
  return losses.some((value) => value !== null && value > most) ? most : undefined;
};

const TIME = [["computing", "computing_share", "--compute"], ["fill and drain", "ramp_share", "--ramp"], ["starved", "starved_share", "--starved"], ["other idle", "idle_share", "--idle"], ["waiting for tokens", "data_share", "--data"], ["between steps", "between_share", "--between"]];

const drawCharts = () => {
  const columns = part(page.snapshot.series), { charts } = page, base = { x: columns.step, titleAt: titleAt(columns) };
  const wide = columns.width > 1;
  const heldout = heldoutAt(columns, page.snapshot.heldout), most = mostOf([...columns.loss, ...heldout], columns.step.length);
  charts.loss.show({ ...base, label: "Loss by step", most, series: [
    { name: "training", values: columns.loss, low: wide ? columns.loss_low : null, high: wide ? columns.loss_high : null, colour: "--train" },
    { name: "held-out", values: heldout, colour: "--held", dots: true }] });
  charts.time.show({ ...base, label: "Shares of the time by step", stacked: true, formatY: (share) => (share ? formatShare(share) : "0 %"), series: TIME.map(([name, key, colour]) => ({ name, values: columns[key], colour })) });
  charts.speed.show({ ...base, label: "Tokens per second by step", zero: true, series: [{ name: "tokens per second", values: columns.tokens_per_second, colour: "--train" }] });
  charts.norm.show({ ...base, label: "Gradient norm by step", logY: true, series: [{ name: "gradient norm", values: columns.grad_norm, colour: "--train" }] });
  charts.rate.show({ ...base, label: "Learning rate by step", zero: true, series: [{ name: "learning rate", values: columns.lr, colour: "--train" }] });
  say("width-note", [most !== undefined && "the first steps lie above", wide && `each point is the mean of ${columns.width} steps, the band from the lowest to the highest`].filter(Boolean).join("; "));
  drawPositions();
};

const drawPositions = () => {
  const { positions } = page.snapshot;
  say("positions-help", positions ? "Nats per token, in the windows of the last evaluation that is on disk." : "Written with an evaluation; there is none on disk yet.");
  byId("positions").hidden = !positions;
  if (!positions) return;
  const edges = positions.edges.map((edge, i) => edge || positions.edges[i + 1] / 2);
  page.charts.positions.show({ x: edges, steps: true, logX: true, label: "Held-out loss by position", formatX: binary,
    titleAt: (i) => `positions ${binary(positions.edges[i])} to ${binary(positions.edges[i + 1])}, ${formatNumber(positions.count[i])} tokens`,
    series: [{ name: "held-out loss", values: positions.loss.map((loss, i) => (positions.count[i] > 0 ? loss : null)), colour: "--held" }] });
};

const chooseRange = (share) => {
  page.share = share;
  byId("ranges").replaceChildren(...[["all", 1], ["last half", 0.5], ["last tenth", 0.1]].map(([text, value]) => element("button", { "aria-pressed": `${value === share}`, onclick: () => chooseRange(value) }, text)));
  drawCharts();
};

const cycleTheme = () => {
  const root = document.documentElement, order = ["", "light", "dark"], next = order[(order.indexOf(root.dataset.theme || "") + 1) % 3];
  if (next) root.dataset.theme = next; else delete root.dataset.theme;
  say("theme", `theme: ${next || "auto"}`);
};

const poll = async () => {
  try {
    const answer = await fetch("data.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    page.snapshot = await answer.json();
    page.lost = false;
    page.polls += 1;
    drawCharts();
  } catch { page.lost = true; }
  drawHead();
  setTimeout(poll, page.snapshot.reading < 1 && !page.lost ? 50 : embedded.pollSeconds * 1000);
};

for (const name of ["loss", "time", "speed", "norm", "rate", "positions"]) page.charts[name] = new Chart(byId(name));
byId("theme").addEventListener("click", cycleTheme);
say("theme", "theme: auto");
drawHead();
chooseRange(1);
if (embedded.pollSeconds !== null) setTimeout(poll, page.snapshot.reading < 1 ? 50 : embedded.pollSeconds * 1000);
// For the console of the browser, and for tests.
window.watchedRun = page;
document.documentElement.dataset.ready = "yes";
