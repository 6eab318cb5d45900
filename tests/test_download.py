"""Downloads, from a real server on this machine that cuts, stalls, lies and fails."""

import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddpm_helpers.data import download

RAW = bytes(range(256)) * 400  # 102,400 bytes
FILE = download.Remote("thing.bin", len(RAW), hashlib.md5(RAW).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Every path is a behaviour; what was asked is kept in `server.log`."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.log.append((self.path, start))
        getattr(self, "do" + self.path.rsplit("/")[-1].replace("/", "_"))(start)

    def answer(self, raw, start=0, **headers):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
        self.send_header("Content-Type", headers.get("kind", "application/octet-stream"))
        if headers.get("length", True):
            self.send_header("Content-Length", str(len(raw) - start))
        self.end_headers()

    def dogood(self, start):
        self.answer(RAW, start)
        self.wfile.write(RAW[start:])

    def docut(self, start):  # 40,000 bytes an answer, then the line is dead
        self.answer(RAW, start)
        self.wfile.write(RAW[start : start + 40_000])

    def docutanew(self, start):  # the same, by a server without ranges
        self.answer(RAW)
        self.wfile.write(RAW[:40_000])

    def dostall(self, start):
        self.answer(RAW, start)
        self.wfile.write(RAW[start : start + 1000])
        self.wfile.flush()
        self.server.stop.wait(5)

    def dolie(self, start):
        self.answer(RAW, start)
        self.wfile.write(bytes(len(RAW) - start))

    def doshort(self, start):
        self.answer(RAW[:-1])
        self.wfile.write(RAW[:-1])

    def dolong(self, start):  # without a length, and without an end
        self.answer(RAW, length=False)
        for _ in range(50):
            self.wfile.write(bytes(1 << 16))

    def dohtml(self, start):
        self.answer(RAW, kind="text/html; charset=utf-8")
        self.wfile.write(RAW)

    def doempty(self, start):
        self.send_response(204)
        self.end_headers()

    def donowhere(self, start):
        self.send_response(302)
        self.send_header("Location", "https://[oops/thing.bin")
        self.end_headers()

    def dobusy(self, start):
        self.send_error(503)

    def doaway(self, start):
        self.send_response(302)
        self.send_header("Location", "http://example.org/thing.bin")
        self.end_headers()


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.log, running.stop = [], threading.Event()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.url = lambda *names: [f"http://127.0.0.1:{running.server_port}/{n}" for n in names]
        yield running
        running.stop.set()
        running.shutdown()


def asked(server):
    return [(path.rsplit("/")[-1], start) for path, start in server.log]


BAD = "lie short long html busy away cutanew empty nowhere".split()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_address_gives_way_to_the_next(name, server, tmp_path):
    path = download.fetch(FILE, tmp_path, server.url(name, "good"))
    assert path == tmp_path / "thing.bin" and path.read_bytes() == RAW
    assert asked(server)[-1][0] == "good"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lie", "MD5 is wrong"), ("short", "offers 102399 bytes"), ("html", "web page"),
        ("busy", "503"), ("away", "only https"), ("long", "MD5 is wrong"),
        ("empty", "answered 204"), ("nowhere", "IPv6"),
    ],
)  # fmt: skip
def test_the_last_line_says_why_and_where_to_put_the_file(name, words, server, tmp_path):
    with pytest.raises(OSError, match=words) as caught:
        download.fetch(FILE, tmp_path, server.url(name))
    message = str(caught.value)
    assert message.endswith(f"put it here: {tmp_path / 'thing.bin'}") and "\n" not in message
    assert not (tmp_path / "thing.bin").exists()


def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path):
    download.fetch(FILE, tmp_path, server.url("cut"))
    assert asked(server) == [("cut", 0), ("cut", 40_000), ("cut", 80_000)]
    assert (tmp_path / "thing.bin").read_bytes() == RAW


def test_a_web_page_is_refused_and_the_next_run_continues_the_download(server, tmp_path):
    (tmp_path / "thing.bin.part").write_bytes(RAW[:70_000])
    with pytest.raises(OSError, match="web page"):
        download.fetch(FILE, tmp_path, server.url("html"))
    download.fetch(FILE, tmp_path, server.url("good"))
    assert asked(server)[-1] == ("good", 70_000)
    assert (tmp_path / "thing.bin").read_bytes() == RAW


@pytest.mark.parametrize("name", ["cutanew", "empty", "nowhere", "html", "short"])
def test_a_partial_download_survives_servers_that_fail(name, server, tmp_path):
    (tmp_path / "thing.bin.part").write_bytes(RAW[:70_000])
    with pytest.raises(OSError, match="could not be downloaded"):
        download.fetch(FILE, tmp_path, server.url(name))
    assert (tmp_path / "thing.bin.part").read_bytes() == RAW[:70_000]
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("part", [bytes(500), bytes(len(RAW)), bytes(len(RAW) + 7)])
def test_a_partial_file_of_other_content_is_detected_and_fetched_again(part, server, tmp_path):
    (tmp_path / "thing.bin.part").write_bytes(part)
    download.fetch(FILE, tmp_path, server.url("good"))
    assert asked(server)[-1] == ("good", 0)
    assert (tmp_path / "thing.bin").read_bytes() == RAW


def test_a_silent_server_gives_way_and_its_bytes_are_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    download.fetch(FILE, tmp_path, server.url("stall", "good"))
    assert asked(server) == [("stall", 0), ("good", 1000)]
    assert (tmp_path / "thing.bin").read_bytes() == RAW


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org/x", "file:///x"])
def test_only_https_addresses_are_used(url, tmp_path):
    with pytest.raises(OSError, match="only https"):
        download.fetch(FILE, tmp_path, [url])


def test_the_proxy_variables_are_honoured(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url("")[0])
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    download.fetch(FILE, tmp_path, ["http://localhost:1/good"])  # nobody listens on port 1
    assert server.log == [("http://localhost:1/good", 0)]


def test_no_server_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="could not be downloaded .*refused"):
        download.fetch(FILE, tmp_path, [f"http://127.0.0.1:{port}/x"])


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write thing.bin to .*DDPM_CACHE"):
        download.fetch(FILE, tmp_path / "file" / "x", server.url("good"))


CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))  # the module alone: the package would import torch
import download
folder, url, size, digest = sys.argv[1:]
download.fetch(download.Remote("thing.bin", int(size), digest), Path(folder), [url])
"""


def test_two_processes_fetch_once_and_a_killed_one_is_continued(server, tmp_path):
    place = tmp_path / "with space ü 图"
    words = [sys.executable, "-c", CODE, str(Path(download.__file__).parent), str(place)]
    rest = [str(FILE.size), FILE.md5]
    killed = subprocess.Popen([*words, *server.url("stall"), *rest], stderr=subprocess.DEVNULL)
    part, until = place / "thing.bin.part", time.monotonic() + 60
    while not server.log and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    part.write_bytes(RAW[:1000])  # what a file system kept of it
    both = [subprocess.Popen([*words, *server.url("cut"), *rest]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert asked(server) == [("stall", 0), ("cut", 1000), ("cut", 41_000), ("cut", 81_000)]
    assert (place / "thing.bin").read_bytes() == RAW
