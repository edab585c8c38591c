// Numbers as people read them, and elements whose text is never taken for markup.

const formatSeconds = (seconds, digits = 3) => {
  const size = Math.abs(seconds);
  if (!(size >= 5e-10)) return "0";
  const [unit, factor] = size >= 1 ? ["s", 1] : size >= 1e-3 ? ["ms", 1e3] : size >= 1e-6 ? ["\u00b5s", 1e6] : ["ns", 1e9];
  return `${Number((seconds * factor).toPrecision(digits))} ${unit}`;
};

const formatBytes = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (bytes >= 1024 && place < units.length - 1) { bytes /= 1024; place += 1; }
  return `${Number(bytes.toPrecision(3))} ${units[place]}`;
};

const formatShare = (share) => (share >= 0.0995 ? `${Math.round(share * 100)} %` : `${(share * 100).toFixed(1)} %`);

/** An element; attributes that begin with "on" are listeners, children are elements or plain text. */
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(made.style, value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** A round distance between marks: 1, 2 or 5 times a power of ten, so that about `count` fit into `length`. */
const roundDistance = (length, count) => {
  const rough = length / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((step) => step * power >= rough * 0.999) || 10;
  return factor * power;
};
