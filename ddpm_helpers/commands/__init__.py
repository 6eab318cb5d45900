"""The commands of `ddpm`, each with its options beside its job."""
