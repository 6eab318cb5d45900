"""`python -m ddpm_helpers`, the same as `ddpm`."""

from ddpm_helpers.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
