// The stretch of time that all pictures show, in seconds since the trace began.

class View {
  constructor() { Object.assign(this, { low: 0, high: 1, begin: 0, end: 1, listeners: [], moving: 0 }); }

  /** The step that is shown: nothing outside it can be reached. */
  bound(low, high) {
    this.low = low;
    this.high = Math.max(high, low + 1e-9);
    this.show(this.low, this.high);
  }

  show(begin, end) {
    cancelAnimationFrame(this.moving);
    const length = clamp(end - begin, Math.min(2e-7, this.high - this.low), this.high - this.low);
    this.begin = clamp(begin, this.low, this.high - length);
    this.end = this.begin + length;
    this.changed();
  }

  /** Get there in a moment, so that the eye can follow. */
  glide(begin, end) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { this.show(begin, end); return; }
    cancelAnimationFrame(this.moving);
    const from = [this.begin, this.end], began = performance.now();
    const frame = (now) => {
      const share = clamp((now - began) / 180, 0, 1), eased = 1 - (1 - share) ** 3;
      this.show(from[0] + (begin - from[0]) * eased, from[1] + (end - from[1]) * eased);
      if (share < 1) this.moving = requestAnimationFrame(frame);
    };
    this.moving = requestAnimationFrame(frame);
  }

  zoomed(factor, at = (this.begin + this.end) / 2) {
    return [at - (at - this.begin) * factor, at + (this.end - at) * factor];
  }

  zoom(factor, at) { this.show(...this.zoomed(factor, at)); }

  pan(seconds) { this.show(this.begin + seconds, this.end + seconds); }

  fit() { this.glide(this.low, this.high); }

  changed() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.listeners.forEach((listener) => listener());
    });
  }

  get length() { return this.end - this.begin; }
}

/** A canvas of `width` x `height` CSS pixels whose own pixels are the screen's. */
const prepareCanvas = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
};

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const gutterOf = (width) => (width < 620 ? 58 : 118);

/** Marks of the time axis: x in CSS pixels and text, counted from the begin of the step. */
const timeMarks = (view, gutter, width) => {
  const plot = width - gutter, distance = roundDistance(view.length, Math.max(2, plot / 110));
  const marks = [], zero = view.low;
  for (let k = Math.ceil((view.begin - zero) / distance); zero + k * distance <= view.end + 1e-12; k += 1) {
    const seconds = k * distance, digits = clamp(Math.ceil(Math.log10(Math.max(1, Math.abs(seconds) / distance))) + 1, 2, 9);
    marks.push({ x: gutter + ((zero + seconds - view.begin) / view.length) * plot, text: formatSeconds(seconds, digits) });
  }
  return marks;
};
