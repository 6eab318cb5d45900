"""What every test file shares: no window, no network, the same numbers everywhere."""

import functools
import http.server
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")
ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Cells that nbval runs, each notebook in a kernel of its own, are slow tests."""
    for item in items:
        if type(item).__module__.startswith("nbval"):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A test that reaches for another machine fails at once, instead of now and then."""
    if type(request.node).__module__.startswith("nbval"):
        return
    connect = socket.socket.connect

    def local_only(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"a test tried to reach {host}; tests run without a network")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def whole():
    """A toy training of 9 updates that nothing interrupted."""
    from toy_training import pipeline

    p = pipeline()
    p.fit()
    return p


@pytest.fixture
def signals_as_in_a_terminal():
    """A shell that starts the tests in the background has Ctrl-C ignored in all of them."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file_server(tmp_path: Path):
    """A folder that is served on this machine, and its address, without a slash at the end."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
