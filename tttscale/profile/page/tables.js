// Tables whose columns can be sorted, with small bars behind the numbers.

/** `columns` are {name, title, value, text, bar}; `bar` is the name of a colour of the page. */
const drawTable = (table, columns, rows, start) => {
  let sorted = start || null;
  const highest = columns.map(({ bar, value }) => (bar ? Math.max(...rows.map(value), 0) : 0));
  // Bars of one unit have one scale, so that the columns can be compared.
  const scale = Math.max(...highest, 0) || 1;
  const draw = () => {
    const shown = [...rows];
    if (sorted) {
      const { value } = columns[sorted.column], sign = sorted.down ? -1 : 1;
      shown.sort((a, b) => sign * (typeof value(a) === "string" ? value(a).localeCompare(value(b), undefined, { numeric: true }) : value(a) - value(b)));
    }
    const head = columns.map(({ name, title }, column) => element("th", {
      scope: "col", class: typeof columns[column].value(rows[0]) === "string" ? "words" : null, title: title || null, "aria-sort": sorted && sorted.column === column ? (sorted.down ? "descending" : "ascending") : "none",
    }, element("button", { onclick: () => {
      sorted = { column, down: sorted && sorted.column === column ? !sorted.down : typeof columns[column].value(rows[0]) !== "string" };
      draw();
    } }, name, element("span", { class: "arrow" }, sorted && sorted.column === column ? (sorted.down ? " \u25be" : " \u25b4") : ""))));
    const body = shown.map((row) => element("tr", {}, ...columns.map(({ value, text, bar }) => {
      const cell = element("td", { class: typeof value(row) === "string" ? "words" : "number" }, text ? text(row) : value(row));
      if (bar && value(row) > 0) {
        const share = (value(row) / scale) * 100;
        cell.style.background = `linear-gradient(to left, var(${bar}) ${share}%, transparent ${share}%) no-repeat 0 100% / 100% 3px`;
      }
      return cell;
    })));
    table.replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  };
  if (rows.length) draw();
};

const TIMES = [
  { name: "waited for upstream", key: "upstream_seconds", bar: "--wait", title: "The sender was not done yet: ramp, a slow rank, or too little work in flight" },
  { name: "on the wire", key: "wire_seconds", bar: "--gradient", title: "From the send to the arrival" },
  { name: "hidden", key: "hidden_seconds", bar: "--state", title: "Of the wire: while the receiver computed" },
  { name: "exposed", key: "exposed_seconds", bar: "--accent", title: "Of the wire: while the receiver waited; what a faster network would save" },
].map((column) => ({ ...column, value: (row) => row[column.key], text: (row) => formatSeconds(row[column.key]) }));

const drawEdges = (table, edges) => drawTable(table, [
  { name: "edge", value: (row) => `${row.source} \u2192 ${row.target}` },
  { name: "carries", value: (row) => (row.direction === "backward" ? "gradients" : "states") },
  { name: "messages", value: (row) => row.messages, text: (row) => row.messages.toLocaleString("en") },
  ...(edges.some((row) => row.bytes) ? [{ name: "bytes", value: (row) => row.bytes, text: (row) => formatBytes(row.bytes) }] : []),
  ...TIMES,
], edges, { column: edges.some((row) => row.bytes) ? 7 : 6, down: true });

const drawLayers = (table, layers) => drawTable(table, [
  { name: "layer", value: (row) => row.layer },
  { name: "carries", value: (row) => (row.direction === "backward" ? "gradients" : "states") },
  ...TIMES,
], layers);

const drawComparison = (table, rows, origin) => drawTable(table, [
  { name: "", value: (row) => row.name },
  { name: origin, value: (row) => row.measured, text: (row) => row.measured_text },
  { name: "predicted", value: (row) => row.predicted, text: (row) => row.predicted_text },
  { name: `predicted / ${origin}`, value: (row) => row.ratio, text: (row) => (row.ratio === null ? "" : row.ratio.toFixed(3)) },
], rows);
