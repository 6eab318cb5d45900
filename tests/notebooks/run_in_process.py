"""Run the code cells of notebooks in this process, one after another: no kernel to start.

python run_in_process.py NOTEBOOK …    prints one JSON line a notebook: its name, and its error

NOTEBOOK:N stops before cell N.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402


def run(path: Path, stop: int | None) -> str | None:
    """The error that ends a notebook before cell `stop`, as one line; None where there is none."""
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    torch.set_grad_enabled(True)
    plt.close("all")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells[:stop]):
        if cell["cell_type"] != "code":
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = shell.run_cell("".join(cell["source"]))
        error = result.error_in_exec or result.error_before_exec
        if error is not None:
            where = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{where.line} ({Path(where.filename).name})"
            return f"cell {number}: {type(error).__name__}: {error}; in {line}"
    return None


if __name__ == "__main__":
    for word in sys.argv[1:]:
        name, _, stop = word.partition(".ipynb:")
        path = Path(name).with_suffix(".ipynb")
        error = run(path, int(stop) if stop else None)
        print(json.dumps({"notebook": path.stem, "error": error}), flush=True)
