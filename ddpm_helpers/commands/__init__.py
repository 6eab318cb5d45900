"""The commands of `ddpm`, each with its options and the function that runs it."""
