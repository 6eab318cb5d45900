// The guided tour: five states of the page, each with one thing to do.

export const TOUR = [
  {
    title: "Drag the point",
    text: "x_t is a data point with noise. Drag it, or use the arrow keys. Each line leads to a data point that it may have come from: the thicker, the likelier. The star is their mean, the best answer that a network can give.",
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
    text: "Go only a little way towards the star, then ask again: some points have become less likely, and the star has moved. After 50 small steps one point is left. Press Play to watch; drag x_t to start elsewhere.",
    state: { data: "six", t: 500, x: [-0.4, -1.7], walk: 50 },
  },
  {
    title: "The perfect denoiser copies",
    text: "60 walks from random noise, with the exact mean at every step: all end on the 12 data points, never between them. Something new needs a network that is not perfect. Open “Train a network”, train it, and race again.",
    state: { data: "ring", t: 500, open: "race", run: 1, samplers: ["ddim"], calls: 50, racers: 60 },
  },
];
