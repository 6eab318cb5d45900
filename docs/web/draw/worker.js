// Draws pictures in a thread of its own, so that the page never freezes. Answers a request with
// {id, loading}, {id, opening}, {id, step}, {id, done} or {id, error}; a new one ends the one before.

import { pictureNoise } from "./noise.js";
import { SAMPLERS, addNoise, denoiser, subSequence } from "./samplers.js";

let ort = null; // onnxruntime-web, once it is loaded
const sessions = new Map(); // name of a model -> a promise of its session
let latest = 0;
let queue = Promise.resolve();

onmessage = ({ data: request }) => {
  latest = request.id;
  queue = queue.then(async () => {
    if (request.id !== latest) return;
    try {
      await draw(request);
    } catch (error) {
      postMessage({ id: request.id, error: error.message });
    }
  });
};

async function draw({ id, model, runtimeFiles, y, seed, steps, guidance, sampler, doodle, from }) {
  const session = await load(id, model, runtimeFiles);
  const started = performance.now();
  const { bar } = model;
  const noise = pictureNoise(seed, 0, model.channels * model.side ** 2);
  const denoise = denoiser(network(session, model), model, y, guidance);
  const ts = subSequence(doodle ? from : model.T, steps);
  const start = doodle ? addNoise(bar, doodle, from, noise()) : noise();
  for await (const { t, x_t, x_0 } of SAMPLERS[sampler](bar, denoise, start, ts, noise)) {
    postMessage({ id, step: { t, x_t, x_0 } });
    await nextTask(); // a new request may have come
    if (id !== latest) return;
  }
  postMessage({ id, done: performance.now() - started });
}

/** The session as a function of pictures, a step, and a label (or null) for each picture. */
function network(session, { channels, side }) {
  const { Tensor } = ort;
  return async (pictures, t, labels) => {
    const n = labels.length;
    const feeds = {
      x_t: new Tensor("float32", pictures, [n, channels, side, side]),
      t: new Tensor("int64", new BigInt64Array(n).fill(BigInt(t)), [n]),
    };
    if (session.inputNames.includes("y")) {
      feeds.y = new Tensor("int64", BigInt64Array.from(labels, BigInt), [n]);
    }
    return (await session.run(feeds)).output.data;
  };
}

function load(id, model, runtimeFiles) {
  if (!sessions.has(model.name)) {
    const session = openSession(id, model, runtimeFiles);
    sessions.set(model.name, session);
    session.catch(() => sessions.delete(model.name)); // the next request tries again
  }
  return sessions.get(model.name);
}

async function openSession(id, model, runtimeFiles) {
  const files = ort ? [model] : [...runtimeFiles, model];
  const progress = { id, have: 0, all: files.reduce((total, file) => total + file.bytes, 0) };
  const download = (file) => fetchWhole(file, progress);
  const [bytes] = await Promise.all([download(model), ort ?? startRuntime(runtimeFiles, download)]);
  postMessage({ id, opening: true });
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

async function startRuntime([wasm], download) {
  const wasmBinary = await download(wasm);
  const module = await import("./ort/ort.wasm.bundle.min.mjs").catch(() => {
    throw new Error("ort/ort.wasm.bundle.min.mjs could not be loaded: it is missing or damaged.");
  });
  Object.assign(module.env.wasm, { numThreads: 1, wasmBinary });
  ort = module;
}

/** Downloads a file and verifies its size and, where the browser can, its checksum. */
async function fetchWhole({ file, bytes, sha256 }, progress) {
  const response = await fetch(new URL(file, import.meta.url)).catch(() => null);
  if (!response) throw new Error(`${file} could not be loaded: the server does not answer.`);
  if (!response.ok) throw new Error(`${file} could not be loaded: the server answers ${response.status}.`);
  const parts = [];
  let have = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) break;
    parts.push(value);
    have += value.length;
    progress.have += value.length;
    postMessage({ id: progress.id, loading: progress.have / progress.all });
  }
  if (have !== bytes) throw new Error(`${file} is incomplete: ${have} of ${bytes} bytes arrived.`);
  const whole = new Uint8Array(await new Blob(parts).arrayBuffer());
  if (crypto.subtle && (await hexDigest(whole)) !== sha256) {
    throw new Error(`${file} is damaged: its checksum is not the one it was made with.`);
  }
  return whole;
}

async function hexDigest(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function nextTask() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(null);
  });
}
