// Draws the plane on its canvas. What is drawn is a scene, an object of numbers; colours come from
// the style sheet.

import { REACH } from "./state.js";

const GRID = 64; // of the density
const { atan2, cos, exp, hypot, max, min, PI, sin, sqrt } = Math;
const SHAPES = [circle, square, triangle]; // one for each class
const LONGEST = 1.1; // an arrow is never drawn longer
const COLOURS = [
  "back", "raised", "text", "quiet", "line", "class-0", "class-1", "class-2", "accent", "star",
  "density", "ddpm", "ddim", "heun", "dpm", "flow", "broken",
];

/** The colours of the style sheet, by name. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Paints a scene on a canvas whose side is `side` pixels of the page. */
export function paint(canvas, side, scene, colour) {
  const ratio = canvas.width / side;
  const ink = canvas.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.fillStyle = colour.raised;
  ink.fillRect(0, 0, side, side);
  const view = { ink, colour, side, at: (x, y) => [((x + REACH) / (2 * REACH)) * side, ((REACH - y) / (2 * REACH)) * side] };
  if (scene.density) ink.drawImage(scene.density, 0, 0, side, side);
  frame(view);
  arrows(view, scene.field);
  if (scene.cloud) dots(view, scene.cloud, 0.45, side / 200);
  if (scene.x_t && scene.weights) lines(view, scene);
  const pale = scene.paths.length + scene.crowds.length > 2; // walks of many points: data step back
  const size = max(3.5, side / (scene.data.labels.length > 40 ? 140 : 85));
  dots(view, scene.data, pale ? 0.5 : 1, size, true);
  if (scene.shrunk) dots(view, scene.shrunk, 0.9, 0.38 * size, false, colour.text);
  for (const path of scene.paths) walked(view, path);
  for (const crowd of scene.crowds) dots(view, crowd, crowd.alpha, side / 150, false, colour[crowd.colour]);
  if (scene.x_t) touched(view, scene);
  if (scene.cursor) cross(view, scene.cursor);
}

/** The density of x_t as a small picture: a product of the points' bells in x and in y. */
export function densityPicture({ points, labels }, bar_t, colour) {
  const [a, width] = [sqrt(bar_t), max(sqrt(1 - bar_t), 0.04)]; // no narrower than a pixel shows
  const sums = new Float64Array(GRID * GRID);
  for (let i = 0; i < labels.length; i++) {
    const across = bell(a * points[2 * i], width);
    const down = bell(-a * points[2 * i + 1], width);
    for (let row = 0; row < GRID; row++) {
      const height = down[row];
      if (height < 1e-3) continue;
      for (let k = 0; k < GRID; k++) sums[row * GRID + k] += height * across[k];
    }
  }
  const picture = new OffscreenCanvas(GRID, GRID);
  const image = new ImageData(GRID, GRID);
  const ink = rgb(colour.density);
  let most = 0;
  for (let i = 0; i < sums.length; i++) most = max(most, sums[i]);
  for (let i = 0; i < sums.length; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = ink[c];
    image.data[4 * i + 3] = 150 * sqrt(sums[i] / (most || 1));
  }
  picture.getContext("2d").putImageData(image, 0, 0);
  return picture;
}

/** A Gaussian's bell at the grid's places, from -REACH to REACH. */
function bell(centre, width) {
  const found = new Float64Array(GRID);
  for (let k = 0; k < GRID; k++) {
    const off = (((k + 0.5) / GRID) * 2 - 1) * REACH - centre;
    found[k] = exp(-((off / width) ** 2) / 2);
  }
  return found;
}

/** The square [-1, 1] in which data lie, and the axes. */
function frame({ ink, colour, at }) {
  const [[left, top], [right, bottom]] = [at(-1, 1), at(1, -1)];
  ink.strokeStyle = colour.line;
  ink.lineWidth = 1;
  ink.strokeRect(left, top, right - left, bottom - top);
  ink.fillStyle = colour.quiet;
  ink.font = "12px system-ui, sans-serif";
  ink.textBaseline = "top";
  ink.textAlign = "center";
  for (const value of [-1, 1]) ink.fillText(String(value).replace("-", "−"), at(value, 0)[0], bottom + 4);
}

function arrows({ ink, colour, at, side }, field) {
  ink.strokeStyle = colour.quiet;
  ink.globalAlpha = 0.75;
  ink.lineWidth = max(1, side / 500);
  for (const { x, y, dx, dy } of field) {
    const [from, to] = [at(x, y), at(x + dx, y + dy)];
    arrow(ink, from, to, side / 110);
  }
  ink.globalAlpha = 1;
}

/** Lines from x_t to the data, as thick as their weights. */
function lines({ ink, colour, at, side }, { x_t, data, weights }) {
  const [x, y] = at(...x_t);
  const most = max(...weights);
  ink.strokeStyle = colour.accent;
  ink.lineCap = "round";
  weights.forEach((weight, i) => {
    if (weight < most / 200) return;
    ink.globalAlpha = 0.25 + 0.6 * sqrt(weight);
    ink.lineWidth = max(0.5, weight * side * 0.03);
    stroke(ink, [[x, y], at(data.points[2 * i], data.points[2 * i + 1])]);
  });
  ink.globalAlpha = 1;
}

/** Points in the colours and shapes of their classes, or all in one colour. */
function dots({ ink, colour, at }, { points, labels }, alpha, size, outlined = false, one = null) {
  ink.globalAlpha = alpha;
  ink.strokeStyle = colour.back;
  ink.lineWidth = 1.5;
  SHAPES.slice(0, one ? 1 : SHAPES.length).forEach((shape, label) => {
    ink.fillStyle = one ?? colour[`class-${label}`];
    ink.beginPath(); // one path for all points of a class, which is much faster than one for each
    for (let i = 0; i < points.length / 2; i++) {
      if (one || labels[i] === label) shape(ink, ...at(points[2 * i], points[2 * i + 1]), size);
    }
    ink.fill();
    if (outlined) ink.stroke();
  });
  ink.globalAlpha = 1;
}

/** A path with a mark at its end. */
function walked({ ink, colour, at, side }, { xs, colour: name, dash, width = 2, alpha = 1, mark }) {
  if (!xs.length) return;
  ink.strokeStyle = ink.fillStyle = colour[name];
  ink.globalAlpha = alpha;
  ink.lineWidth = width;
  ink.lineJoin = "round";
  ink.setLineDash(dash ?? []);
  stroke(ink, xs.map(([x, y]) => at(x, y)));
  ink.setLineDash([]);
  ink.globalAlpha = 1;
  if (!mark) return;
  ink.beginPath();
  circle(ink, ...at(...xs.at(-1)), mark * max(3, side / 150));
  ink.fill();
  ink.strokeStyle = colour.back;
  ink.lineWidth = 1.5;
  ink.stroke();
}

/** x_t, the star of the mean, and the arrow of the chosen prediction. */
function touched(view, { x_t, mean, vector }) {
  const { ink, colour, at, side } = view;
  const [x, y] = at(...x_t);
  const away = max(14, side / 34) * (mean && mean[1] > x_t[1] ? -1 : 1); // the labels never meet
  if (mean) {
    const [u, v] = at(...mean);
    ink.strokeStyle = colour.star;
    ink.lineWidth = 2;
    ink.setLineDash([5, 5]);
    stroke(ink, [[x, y], [u, v]]);
    ink.setLineDash([]);
    star(view, u, v, max(10, side / 42));
    label(view, "mean", u, v, away);
  }
  if (vector) {
    const length = hypot(...vector);
    const part = min(1, LONGEST / length);
    ink.strokeStyle = colour.text;
    ink.lineWidth = max(2.5, side / 200);
    if (length > 0.005) arrow(ink, [x, y], at(x_t[0] + part * vector[0], x_t[1] + part * vector[1]), side / 45);
  }
  ink.fillStyle = colour.back;
  ink.strokeStyle = colour.accent;
  ink.lineWidth = max(4, side / 130);
  ink.beginPath();
  circle(ink, x, y, max(8, side / 60));
  ink.fill();
  ink.stroke();
  label(view, "x_t", x, y, -away);
}

function label({ ink, colour, side }, text, x, y, below) {
  ink.font = `600 ${max(15, side / 36)}px system-ui, sans-serif`;
  ink.textAlign = "center";
  ink.textBaseline = below > 0 ? "top" : "bottom";
  ink.lineWidth = 4;
  ink.lineJoin = "round";
  ink.strokeStyle = colour.raised;
  ink.strokeText(text, x, y + below);
  ink.fillStyle = colour.text;
  ink.fillText(text, x, y + below);
}

function star({ ink, colour }, x, y, size) {
  ink.beginPath();
  for (let k = 0; k < 10; k++) {
    const [angle, radius] = [(k * PI) / 5 - PI / 2, k % 2 ? size * 0.45 : size];
    ink.lineTo(x + radius * cos(angle), y + radius * sin(angle));
  }
  ink.closePath();
  ink.fillStyle = colour.star;
  ink.strokeStyle = colour.back;
  ink.lineWidth = 2;
  ink.fill();
  ink.stroke();
}

function cross({ ink, colour, at, side }, [x, y]) {
  const [u, v] = at(x, y);
  ink.strokeStyle = colour.text;
  ink.lineWidth = 2;
  stroke(ink, [[u - side / 40, v], [u + side / 40, v]]);
  stroke(ink, [[u, v - side / 40], [u, v + side / 40]]);
}

function arrow(ink, [x, y], [u, v], head) {
  const angle = atan2(v - y, u - x);
  const size = min(head, hypot(u - x, v - y) * 0.6);
  stroke(ink, [[x, y], [u, v]]);
  stroke(ink, [-0.45, 0.45].map((turn) => [u - size * cos(angle + turn), v - size * sin(angle + turn)]), [u, v]);
}

/** A line through points; with a tip, from the first over the tip to the last. */
function stroke(ink, points, tip) {
  ink.beginPath();
  const all = tip ? [points[0], tip, points[1]] : points;
  all.forEach(([x, y], i) => (i ? ink.lineTo(x, y) : ink.moveTo(x, y)));
  ink.stroke();
}

function circle(ink, x, y, size) {
  ink.moveTo(x + size, y);
  ink.arc(x, y, size, 0, 2 * PI);
}

function square(ink, x, y, size) {
  ink.rect(x - 0.88 * size, y - 0.88 * size, 1.76 * size, 1.76 * size);
}

function triangle(ink, x, y, size) {
  ink.moveTo(x, y - 1.25 * size);
  ink.lineTo(x + 1.1 * size, y + 0.75 * size);
  ink.lineTo(x - 1.1 * size, y + 0.75 * size);
  ink.closePath();
}

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
