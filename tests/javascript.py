"""Run the JavaScript of docs/web in Node, and get back what it prints."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[1] / "docs/web"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def node(script, imports, **given):
    """What a module script prints as JSON.

    Args:
        script: may use the names of `imports` and `given`.
        imports: name -> file of docs/web, whose exports it is.
        given: values.
    """
    lines = [
        f'import * as {name} from "{(WEB / file).as_uri()}";' for name, file in imports.items()
    ]
    lines += [f"const {name} = {json.dumps(value)};" for name, value in given.items()]
    command = ["node", "--input-type=module", "--eval", "\n".join([*lines, script])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
