"""Run the code cells of notebooks in this process, one after another: no kernel to start.

python run_in_process.py NOTEBOOK N …    runs the first N cells of each notebook, and prints one
                                         JSON line: its name, and its error
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


def run(path: Path, n: int) -> str | None:
    """The error that ends the first n cells of a notebook, as one line; None where none does."""
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    torch.set_grad_enabled(True)
    plt.close("all")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells[:n]):
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
    for name, n in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        path = Path(name)
        print(json.dumps({"notebook": path.stem, "error": run(path, int(n))}), flush=True)
