"""How much longer `import ddpm_helpers` takes than `import torch`; the aim is 1.15 times.

    python tests/benchmarks/bench_import.py [rounds]

The two take turns, each in a fresh process, and the medians are compared.
"""

import statistics
import subprocess
import sys
import time


def seconds(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


def main(rounds: int = 7) -> None:
    modules = ("torch", "ddpm_helpers")
    for module in modules:  # fill the disk's cache first
        seconds(module)
    times: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(rounds):
        for module in modules:
            times[module].append(seconds(module))
    torch, ours = (statistics.median(times[module]) for module in modules)
    print(f"import torch {torch:.2f} s, import ddpm_helpers {ours:.2f} s: {ours / torch:.3f} times")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
