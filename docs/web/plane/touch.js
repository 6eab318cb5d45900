// Pointer, touch and keys on the plane's canvas, in the plane's own coordinates.

import { REACH } from "./state.js";

const [NEAR, FAR] = [0.05, 0.25]; // of one press of an arrow key
const STROKE = 0.06; // distance of the points that one stroke draws
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const { hypot, max, min, round } = Math;

/**
 * Calls what happens on a canvas: `moved([x, y])` while a point is dragged, `drawn([x, y])` for each
 * point of a stroke, `ended()` when it ends, `turned(n)` for page up and down, `played()` for space
 * where touching does not draw. `drawing()` says whether it does, `place()` where keys start from.
 */
export function touching(canvas, { drawing, place, moved, drawn, ended, turned, played }) {
  let last = null; // the stroke's last point

  function at({ clientX, clientY }) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return inside([
      ((2 * (clientX - left)) / width - 1) * REACH,
      (1 - (2 * (clientY - top)) / height) * REACH,
    ]);
  }

  function touched(point) {
    if (!drawing()) return moved(point);
    if (last && hypot(point[0] - last[0], point[1] - last[1]) < STROKE) return undefined;
    last = point;
    return drawn(point);
  }

  function spaced() {
    if (!drawing()) return played();
    drawn(place());
    return ended();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    touched(at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) touched(at(event));
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => ended());
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? FAR : NEAR;
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      const [x, y] = place();
      moved(inside([x + step * dx, y + step * dy]));
    } else if (event.key === "PageUp" || event.key === "PageDown") {
      turned(event.key === "PageUp" ? 10 : -10);
    } else if (event.key === " ") {
      if (!event.repeat) spaced();
    } else {
      return;
    }
    event.preventDefault();
  });
}

/** A point of the plane in hundredths, so that an address says exactly what is shown. */
function inside(point) {
  return point.map((value) => max(-REACH, min(REACH, round(value * 100) / 100)));
}
