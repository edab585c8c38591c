// Mouse, touch and keyboard on a wavefront.

/** Let a canvas be zoomed and panned. `point(found, x, y)` is called with what lies under the pointer. */
const attachPointer = (wavefront, point, hint) => {
  const { canvas, view } = wavefront, touches = new Map();
  let drag = null, pinch = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [a, b] = [...touches.values()];
    return { middle: wavefront.secondsAt((a[0] + b[0]) / 2), width: Math.max(20, Math.abs(a[0] - b[0])) };
  };

  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    touches.set(event.pointerId, [x, y]);
    canvas.setPointerCapture(event.pointerId);
    if (touches.size === 2) {
      pinch = { ...spread(), length: view.length };
      drag = null;
    } else {
      drag = { x, y, begin: view.begin, end: view.end, range: event.shiftKey, moved: false };
    }
    point(wavefront.find(x, y), event.clientX, event.clientY);
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (touches.has(event.pointerId)) touches.set(event.pointerId, [x, y]);
    if (pinch && touches.size === 2) {
      const now = spread(), length = (pinch.length * pinch.width) / now.width;
      const share = ([...touches.values()].reduce((total, [at]) => total + at, 0) / 2 - wavefront.gutter) / (wavefront.width - wavefront.gutter);
      view.show(pinch.middle - share * length, pinch.middle + (1 - share) * length);
      return;
    }
    if (drag) {
      drag.moved = drag.moved || Math.abs(x - drag.x) > 3;
      const perPixel = (drag.end - drag.begin) / (wavefront.width - wavefront.gutter), at = wavefront.secondsAt(drag.x);
      if (drag.range) {
        wavefront.range = [Math.min(at, wavefront.secondsAt(x)), Math.max(at, wavefront.secondsAt(x))];
        view.changed();
      } else if (drag.moved) {
        view.show(drag.begin - (x - drag.x) * perPixel, drag.end - (x - drag.x) * perPixel);
        canvas.classList.add("dragging");
      }
      if (drag.moved) { point(null); return; }
    }
    wavefront.cursor = x >= wavefront.gutter ? wavefront.secondsAt(x) : null;
    point(wavefront.find(x, y), event.clientX, event.clientY);
  });

  const release = (event) => {
    touches.delete(event.pointerId);
    pinch = null;
    canvas.classList.remove("dragging");
    if (drag && drag.range && wavefront.range) {
      const [begin, end] = wavefront.range;
      wavefront.range = null;
      view.glide(begin, end);
    }
    drag = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { wavefront.cursor = null; if (!drag) point(null); });

  canvas.addEventListener("wheel", (event) => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const pixels = event.deltaMode === 1 ? event.deltaY * 18 : event.deltaY;
      view.zoom(Math.exp(clamp(pixels, -120, 120) * 0.006), wavefront.secondsAt(place(event)[0]));
    } else if (sideways) {
      event.preventDefault();
      view.pan(((event.deltaX || event.deltaY) / (wavefront.width - wavefront.gutter)) * view.length);
    } else {
      hint();
    }
  }, { passive: false });

  canvas.addEventListener("dblclick", (event) => view.glide(...view.zoomed(0.35, wavefront.secondsAt(place(event)[0]))));
  canvas.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && pressKey(wavefront, event.key, point)) event.preventDefault();
  });
  canvas.addEventListener("blur", () => point(null));
};

/** What a key does; false if nothing. */
const pressKey = (wavefront, key, point) => {
  const { view, canvas } = wavefront, ranks = wavefront.trace.ranks;
  const go = (row, i) => {
    const { spans } = ranks[row], found = { row, i: clamp(i, 0, spans.n - 1) };
    const [begin, end] = [wavefront.seconds(spans.begin[found.i]), wavefront.seconds(spans.end[found.i])];
    if (begin < view.begin || end > view.end) view.show((begin + end - view.length) / 2, (begin + end + view.length) / 2);
    const box = canvas.getBoundingClientRect();
    point(found, box.left + clamp(wavefront.x((begin + end) / 2), 0, wavefront.width), box.top + wavefront.top(row) + wavefront.rowHeight / 2);
  };
  const at = wavefront.hovered || { row: 0, i: after(ranks[0].spans.begin, wavefront.tickAt((view.begin + view.end) / 2)) - 1 };
  const walk = (rows) => {
    const row = clamp(at.row + rows, 0, ranks.length - 1), middle = wavefront.tickAt((view.begin + view.end) / 2);
    go(row, after(ranks[row].spans.begin, wavefront.hovered ? ranks[at.row].spans.begin[at.i] : middle) - 1);
  };
  const actions = {
    "+": () => view.glide(...view.zoomed(0.5)), "=": () => view.glide(...view.zoomed(0.5)), w: () => view.glide(...view.zoomed(0.5)),
    "-": () => view.glide(...view.zoomed(2)), _: () => view.glide(...view.zoomed(2)), s: () => view.glide(...view.zoomed(2)),
    ArrowLeft: () => view.pan(-view.length / 8), a: () => view.pan(-view.length / 8),
    ArrowRight: () => view.pan(view.length / 8), d: () => view.pan(view.length / 8),
    ArrowUp: () => walk(wavefront.hovered ? -1 : 0), ArrowDown: () => walk(wavefront.hovered ? 1 : 0),
    ",": () => go(at.row, at.i - 1), ".": () => go(at.row, at.i + 1),
    0: () => view.fit(), Home: () => view.fit(), Escape: () => point(null),
  };
  if (!actions[key]) return false;
  actions[key]();
  return true;
};
