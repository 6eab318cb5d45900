// Convert a network's pictures, (channels, side, side) in [-1, 1], to pixels of a canvas and back.

export const COLUMNS = 8; // of a strip

/** A picture as ImageData. */
export function pixels(picture, { channels, side }) {
  const image = new ImageData(side, side);
  const area = side * side;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const value = picture[(channels === 3 ? c * area : 0) + i];
      image.data[4 * i + c] = Math.round((value + 1) * 127.5); // clamped to 0..255 by its type
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** Paints a picture on a canvas, pixel by pixel. */
export function show(canvas, picture, model) {
  canvas.width = canvas.height = model.side;
  canvas.getContext("2d").putImageData(pixels(picture, model), 0, 0);
}

/** Paints steps {x_t, x_0} side by side, x_t above x_0. */
export function showStrip(canvas, steps, model) {
  const { side } = model;
  canvas.width = COLUMNS * side;
  canvas.height = 2 * side;
  const ink = canvas.getContext("2d");
  steps.forEach(({ x_t, x_0 }, i) => {
    ink.putImageData(pixels(x_t, model), i * side, 0);
    ink.putImageData(pixels(x_0, model), i * side, side);
  });
}

/** The content of a canvas of any size as a picture, scaled down. */
export function fromCanvas(canvas, { channels, side }) {
  const small = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  small.imageSmoothingQuality = "high";
  small.drawImage(canvas, 0, 0, side, side);
  const { data } = small.getImageData(0, 0, side, side);
  const area = side * side;
  const picture = new Float32Array(channels * area);
  for (let i = 0; i < area; i++) {
    const [r, g, b] = data.subarray(4 * i);
    const values = channels === 3 ? [r, g, b] : [0.299 * r + 0.587 * g + 0.114 * b];
    values.forEach((value, c) => (picture[c * area + i] = value / 127.5 - 1));
  }
  return picture;
}
