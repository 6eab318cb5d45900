// The guided tour: six states of the page, each with one thing to do or to see.

export const ENOUGH = 2000; // updates of the network, after which its race is worth a look

const RACE = { data: "ring", t: 500, open: "race", run: 1, samplers: ["ddim"], calls: 50, racers: 60 };

export const TOUR = [
  {
    title: "Drag the point",
    text: "x_t is a data point with noise. Drag it, or use the arrow keys. Each line leads to a data point that it may come from: the thicker the line, the likelier. Where each line ends, a small dot shows where that data point would be at t without noise. The star is the mean of the data points, each with its weight. No other answer has a smaller expected squared error, so it is what a network learns to give.",
    state: { data: "six", t: 120, x: [0.35, 0.25] },
  },
  {
    title: "Lower t",
    text: "The cloud shows where data points lie after t steps of noise. Move t down: with less noise, fewer data points are possible, until one remains. Move t up to 500: all six are equally likely, and the star lies in their middle.",
    state: { data: "six", t: 250, x: [0.35, 0.25], cloud: 1 },
  },
  {
    title: "One step gives the mean",
    text: "At t = 500, x_t is nothing but noise, so all points are possible. Press Play: a single step to t = 0 asks once and ends on the star, where there is no data. The mean of many images is a blurred image.",
    state: { data: "six", t: 500, x: [-0.4, -1.7], walk: 1 },
  },
  {
    title: "Many steps do not",
    text: "Press Play. x_t goes a little way towards the star (black path), then asks again. There is less noise now, so the same place fits some data points better than others, and the star moves towards those (dotted path). A small lean grows, until one point is left. Drag x_t to start elsewhere; after a walk, it starts at t = 500 again.",
    state: { data: "six", t: 500, x: [-0.4, -1.7], walk: 50 },
  },
  { title: "The perfect denoiser copies", told: exactRace, state: RACE },
  { title: "A network does not", told: learnedRace, state: { ...RACE, field: "learned" } },
];

/**
 * What steps 5 and 6 say about the race that is shown: {racers, points, onRing, between, updates,
 * toData, farthest}, or null before there is one.
 *
 * `onRing` counts the ends within 0.1 of the ring, `between` those of them that are 0.05 or more from
 * every data point (both null: the data are no ring), `updates` are those of the network that was used
 * (0: the exact mean), `toData` and `farthest` the mean and largest distance of an end from the data.
 */
function exactRace(race) {
  if (!race) return "Press Race to see where walks with the exact mean end.";
  if (race.updates) return learnedRace(race);
  const { racers, points, toData, farthest } = race;
  const where = farthest < 0.05
    ? `all end on the ${points} data points, never between them`
    : `on average, their ends are ${toData.toFixed(3)} from the nearest of the ${points} data points, at most ${farthest.toFixed(2)}`;
  return `${racers} walks from random noise, with the exact mean at every step: ${where}. `
    + "A perfect denoiser can only copy what it was given. Something new needs a network that is not perfect: Next.";
}

function learnedRace(race) {
  if (!race?.updates) return "Choose “learned” as the field of arrows and press Race to see where walks with a network's mean end.";
  const { racers, points, onRing, between, updates, toData } = race;
  const ends = `${racers} walks, with the mean that a network gives after ${updates} updates on the ${points} data points: `
    + `on average they end ${toData.toFixed(2)} from the nearest of them.`;
  if (updates < ENOUGH) return `${ends} It has learned too little yet. Go on with Train, and race again from ${ENOUGH} updates on.`;
  const like = onRing === null ? "" : ` ${onRing} of ${racers} lie within 0.1 of the ring, ${between} of these between two data points: they are new, and look like the data.`;
  return `${ends}${like} Two hidden layers cannot bend sharply enough to recite every point, so they learn what the points share. `
    + "That is how a network can draw new images. What lies off the shape is its error.";
}
