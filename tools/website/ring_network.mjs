// Trains the network that plane.html shows in the last step of its tour, as the page's Train button
// would, and writes docs/web/plane/ring.js. A minute:
//
//     node tools/website/ring_network.mjs

import { writeFileSync } from "node:fs";
import { preset, PRESETS } from "../../docs/web/plane/data.js";
import { alphaBar } from "../../docs/web/plane/schedules.js";
import { MOST_UPDATES, training } from "../../docs/web/plane/training.js";

const PER_UNIT = 4096; // whole numbers of 16 bits reach -8..8
const network = training(preset("ring", PRESETS.ring.n, 0), alphaBar("cosine", 500), 0);
while (network.updates < MOST_UPDATES) network.update();
const rounded = Int16Array.from(network.weights, (value) => Math.round(value * PER_UNIT));
const weights = Buffer.from(rounded.buffer).toString("base64");
writeFileSync(
  new URL("../../docs/web/plane/ring.js", import.meta.url),
  `// A network that has learned the ring. tools/website/ring_network.mjs wrote this file.

const PER_UNIT = ${PER_UNIT};
const WEIGHTS = "${weights}";

/** {weights, updates, loss} of the network, for \`training\`. */
export function ringNetwork() {
  const bytes = Uint8Array.from(atob(WEIGHTS), (one) => one.charCodeAt(0));
  const weights = Float64Array.from(new Int16Array(bytes.buffer), (value) => value / PER_UNIT);
  return { weights, updates: ${network.updates}, loss: ${network.loss.toFixed(4)} };
}
`,
);
