// Traces as the page carries them (see pack.py), as typed arrays.

const inflate = async (base64) => {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack the data; one of 2023 or later can");
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

/** Hands out the columns in the order in which pack.py has added them. */
class Columns {
  constructor(bytes, sizes) { Object.assign(this, { bytes, sizes, next: 0, at: 0 }); }

  take() {
    const size = this.sizes[this.next++], { bytes, at } = this, column = new Int32Array(size);
    for (let i = 0; i < size; i += 1) {
      column[i] = bytes[at + i] | (bytes[at + size + i] << 8) | (bytes[at + 2 * size + i] << 16) | (bytes[at + 3 * size + i] << 24);
    }
    this.at += 4 * size;
    return column;
  }

  /** Of a column of differences. */
  sums() {
    const column = this.take();
    for (let i = 1; i < column.length; i += 1) column[i] += column[i - 1];
    return column;
  }
}

const takeSpans = (columns) => {
  const gaps = columns.take(), lengths = columns.take(), kind = columns.take();
  const n = gaps.length, begin = new Int32Array(n), end = new Int32Array(n);
  for (let i = 0, now = 0; i < n; i += 1) {
    begin[i] = now + gaps[i];
    now = end[i] = begin[i] + lengths[i];
  }
  return { n, begin, end, kind, sequence: columns.sums(), chunk: columns.sums(), layer: columns.sums() };
};

const decodeTrace = async (packed) => {
  const columns = new Columns(await inflate(packed.data), packed.columns);
  const ranks = packed.ranks.map((rank, row) => ({
    ...rank, row, spans: takeSpans(columns), reads: takeSpans(columns),
    memory: { time: columns.sums(), kib: columns.sums() },
  }));
  const source = columns.take(), target = columns.take(), sent = columns.sums(), flight = columns.take();
  const arrows = {
    n: source.length, source, target, sent, received: sent.map((tick, i) => tick + flight[i]),
    kind: columns.take(), sequence: columns.sums(), boundary: columns.sums(), layer: columns.sums(),
  };
  const kinds = packed.kinds.map(([activity, run, part]) => ({ activity, run, part }));
  return { origin: packed.origin, cut: packed.cut, tick: packed.tick_seconds, ticks: packed.ticks, ranks, arrows, kinds };
};

/** The first place in a sorted column whose value is greater than `value`. */
const after = (column, value) => {
  let low = 0, high = column.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] > value) high = middle; else low = middle + 1;
  }
  return low;
};
