// The doodle's canvas: paint with a pointer or with keys alone.

import { fromCanvas } from "./pixels.js";

const COLOURS = {
  sky: "#7ec8f2", sea: "#1f6fb2", grass: "#4f9d45", sand: "#d9b77c", earth: "#7a4a26",
  red: "#c8372d", yellow: "#f2c230", white: "#ffffff", grey: "#8a8f96", black: "#17181a",
}; // prettier-ignore
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Sets up the canvas; `changed` is called after every stroke. */
export function doodling($, changed) {
  const canvas = $("doodle");
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  const at = { x: canvas.width / 2, y: canvas.height / 2 }; // the brush
  let painting = false;
  const colour = () => document.querySelector("[name=colour]:checked").value;
  const brush = () => Number($("brush").value);
  const within = (v) => Math.min(canvas.width, Math.max(0, v));

  Object.entries(COLOURS).forEach(([name, value]) => {
    const choice = Object.assign(document.createElement("input"), {
      type: "radio", name: "colour", value, ariaLabel: name, title: name, checked: name === "red",
    }); // prettier-ignore
    choice.style.background = value;
    $("palette").append(choice);
  });
  scene();
  measure();

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    painting = true;
    stroke(place(event), false);
  });
  canvas.addEventListener("pointermove", (event) => painting && stroke(place(event), true));
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (painting) changed();
      painting = false;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault(); // the page would scroll
    const [dx, dy] = (move ?? [0, 0]).map((way) => (way * brush()) / 2);
    const to = { x: within(at.x + dx), y: within(at.y + dy) };
    if (event.key === " " || event.shiftKey) {
      stroke(to, Boolean(move));
      changed();
    } else {
      Object.assign(at, to);
    }
    measure();
  });
  $("brush").addEventListener("input", measure);
  $("fill").addEventListener("click", () => {
    ink.fillStyle = colour();
    ink.fillRect(0, 0, canvas.width, canvas.height);
    changed();
  });
  $("open").addEventListener("change", open);

  function stroke(to, line) {
    ink.strokeStyle = colour();
    ink.lineWidth = brush();
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    ink.moveTo(line ? at.x : to.x, line ? at.y : to.y);
    ink.lineTo(to.x, to.y);
    ink.stroke();
    Object.assign(at, to);
  }

  function place({ offsetX, offsetY }) {
    const scale = canvas.width / canvas.clientWidth;
    return { x: offsetX * scale, y: offsetY * scale };
  }

  /** Moves the keyboard's cursor to the brush, in its size. */
  function measure() {
    const percent = (v) => `${(100 * v) / canvas.width}%`;
    const size = percent(brush());
    Object.assign($("cursor").style, { left: percent(at.x), top: percent(at.y), width: size, height: size });
    $("brush-value").value = brush();
  }

  /** Paints the first doodle: sky over a meadow. */
  function scene() {
    const horizon = 0.7 * canvas.height;
    ink.fillStyle = COLOURS.sky;
    ink.fillRect(0, 0, canvas.width, horizon);
    ink.fillStyle = COLOURS.grass;
    ink.fillRect(0, horizon, canvas.width, canvas.height - horizon);
  }

  async function open() {
    const file = $("open").files[0];
    if (!file) return;
    const image = await createImageBitmap(file).catch(() => null);
    $("open").value = "";
    if (!image) return window.alert(`${file.name} is not an image that this browser can read.`);
    const side = Math.min(image.width, image.height); // the centre square
    const [x, y] = [(image.width - side) / 2, (image.height - side) / 2];
    ink.drawImage(image, x, y, side, side, 0, 0, canvas.width, canvas.height);
    changed();
  }

  return {
    picture: (model) => fromCanvas(canvas, model),
    async paste(image) {
      ink.imageSmoothingEnabled = false;
      ink.drawImage(await createImageBitmap(image), 0, 0, canvas.width, canvas.height);
      ink.imageSmoothingEnabled = true;
      changed();
    },
  };
}
