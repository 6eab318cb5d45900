// The guided tour: five states of the page, each with one thing to do.

export const ENOUGH = 2000; // updates of the network, after which its race is worth a look

export const TOUR = [
  {
    title: "Drag the point",
    text: "x_t is a data point with noise. Drag it, or use the arrow keys. Each line leads to a data point that it may have come from: the thicker, the likelier. A small dot is where that data point would be at t without noise: the nearer, the likelier. The star is the mean, the best answer that a network can give.",
    state: { data: "six", t: 120, x: [0.35, 0.25] },
  },
  {
    title: "Lower t",
    text: "The cloud shows where data points lie after t steps of noise. Move t down: with less noise, fewer data points are possible, until one remains. Move t up to 500: all six are equally likely, and the star lies in their middle.",
    state: { data: "six", t: 250, x: [0.35, 0.25], cloud: 1 },
  },
  {
    title: "One step gives the mean",
    text: "At t = 500, x_t is nothing but noise, so all points are possible. A single step to t = 0 ends on the star, where there is no data. The mean of many images is a blurred image.",
    state: { data: "six", t: 500, x: [-0.4, -1.7], walk: 1 },
  },
  {
    title: "Many steps do not",
    text: "Go only a little way towards the star, then ask again: some points have become less likely, and the star has moved. After 50 small steps one point is left. Press Play to watch; drag x_t to start elsewhere, at t = 500 again if the walk is over.",
    state: { data: "six", t: 500, x: [-0.4, -1.7], walk: 50 },
  },
  {
    title: "The perfect denoiser copies",
    told: lastStep,
    state: { data: "ring", t: 500, open: "race", run: 1, samplers: ["ddim"], calls: 50, racers: 60 },
  },
];

/**
 * What the last step says about the race that is shown.
 *
 * `race` is null or {racers, points, onRing, updates, toData} of its first sampler: the numbers of
 * walks, of data points, and of ends within 0.1 of the ring (null: the data are no ring), the updates
 * of the network that it used (0: the exact mean), and the mean distance of its ends from the data.
 * `updates` are those of the network by now, of `most`.
 */
function lastStep({ race, updates, most }) {
  const wait = `Race again when it has ${ENOUGH} or more of its ${most} updates`;
  const next = updates ? `${wait}; it has ${updates}.` : `Open “Train a network” and press Train. ${wait}.`;
  if (!race) return `Press Race to see where walks with the exact mean end. ${next}`;
  const { racers, points, onRing, toData } = race;
  if (!race.updates) {
    const where = toData < 0.005
      ? `all end on the ${points} data points, never between them`
      : `their ends are ${toData.toFixed(2)} from the nearest data point`;
    return `${racers} walks from random noise, with the exact mean at every step: ${where}. `
      + `Something new needs a network that is not perfect. ${updates >= ENOUGH ? "The network is ready: race again." : next}`;
  }
  const ends = `${racers} walks from random noise, with the mean as the network tells it after ${race.updates} of ${most} `
    + `updates: on average they end ${toData.toFixed(2)} from the nearest of the ${points} data points.`;
  if (race.updates < ENOUGH) return `${ends} That is not invention: it has learned too little yet. ${next}`;
  const like = onRing === null ? "" : `${onRing} of ${racers} lie within 0.1 of the ring: there, an end between two data points is new. `;
  return `${ends} ${like}What is off the shape is the network's error; more updates make it smaller.`;
}
