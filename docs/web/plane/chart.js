// The error of the exact and of the learned x_0 by timestep, as a small chart.

/** Draws curves [{values, colour, name, dash}] over timesteps from 0 to T. */
export function drawErrors(canvas, timesteps, curves, T, colour) {
  const [width, height] = [canvas.width, canvas.height];
  const ink = canvas.getContext("2d");
  const scale = width / 600;
  const [left, right, top, bottom] = [70 * scale, width - 16 * scale, 42 * scale, height - 56 * scale];
  const most = Math.max(1e-9, ...curves.flatMap(({ values }) => values)) * 1.08;
  const at = (t, value) => [left + ((right - left) * t) / T, bottom - ((bottom - top) * value) / most];
  ink.clearRect(0, 0, width, height);
  ink.font = `${20 * scale}px system-ui, sans-serif`;
  ink.fillStyle = colour.quiet;
  ink.strokeStyle = colour.line;
  ink.lineWidth = scale;
  ink.textAlign = "center";
  ink.textBaseline = "top";
  for (const t of [0, T / 2, T]) ink.fillText(String(t), ...shift(at(t, 0), t === T ? -12 * scale : 0, 6 * scale));
  ink.fillText("timestep t", (left + right) / 2, height - 24 * scale);
  ink.textAlign = "right";
  ink.textBaseline = "middle";
  for (const value of [0, most / 2, most / 1.08]) {
    const [x, y] = at(0, value);
    ink.fillText(value.toFixed(2), x - 6 * scale, y);
    ink.beginPath();
    ink.moveTo(x, y);
    ink.lineTo(right, y);
    ink.stroke();
  }
  let x = left;
  ink.textAlign = "left";
  for (const { values, colour: name, title, dash } of curves) {
    ink.strokeStyle = colour[name];
    ink.lineWidth = 4 * scale;
    ink.setLineDash(dash.map((one) => one * scale));
    ink.beginPath();
    values.forEach((value, i) => ink.lineTo(...at(timesteps[i], value)));
    ink.stroke();
    ink.beginPath();
    ink.moveTo(x, top / 2);
    ink.lineTo(x + 36 * scale, top / 2);
    ink.stroke();
    ink.setLineDash([]);
    ink.fillStyle = colour.text;
    ink.fillText(title, x + 44 * scale, top / 2);
    x += 70 * scale + ink.measureText(title).width;
  }
}

function shift([x, y], dx, dy) {
  return [x + dx, y + dy];
}
