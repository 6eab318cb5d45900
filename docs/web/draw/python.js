// Python code that draws the same picture.

export function pythonFor({ model, y, seed, steps, guidance, sampler, doodle, from }) {
  const options = [
    y === null || y < 0 ? null : `y=[${y}]`,
    `sampler="${sampler}"`,
    `steps=${steps}`,
    guidance === 1 ? null : `guidance=${guidance}`,
    `seed=${seed}`,
  ].filter(Boolean);
  const name = model.classes[y] ? `  # ${model.classes[y]}` : "";
  const lines = [options.slice(0, 2), options.slice(2)].map((some) => `    ${some.join(", ")},`);
  const load = `model, diffusion = load_pretrained("${model.name}")`;
  if (!doodle) {
    return [
      "from ddpm_helpers import load_pretrained",
      "",
      load,
      `x = diffusion.sample(${name}`,
      "    model, 1,",
      ...lines,
      ")",
    ].join("\n");
  }
  return [
    "from ddpm_helpers import load_pretrained",
    "from ddpm_helpers.diffusion.editing import sdedit",
    "",
    load,
    `# doodle: (1, ${model.channels}, ${model.side}, ${model.side}) in [-1, 1]`,
    `x = sdedit(${name}`,
    `    diffusion, model, doodle, ${from},`,
    ...lines,
    ")",
  ].join("\n");
}
