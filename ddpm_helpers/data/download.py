"""Downloads that end in the right file or in one clear line.

Only https; addresses are tried in turn, each one dropped when it is too slow. What came is kept
beside its place as NAME.part and continued by the next address or the next run. A file gets its
name once its size and checksum are right.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

FLOOR = 200_000  # bytes per second: below it, the next address is tried
WINDOW = 10.0  # seconds over which the speed is measured
TIMEOUT = 30.0  # seconds without a byte that end a connection
RETRIES = 20  # times that one address may be cut off and go on
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        name: on disk.
        size: in bytes.
        digest: hexadecimal, of the whole file.
        algorithm: "md5" where nothing better is published, else "sha256".
    """

    name: str
    size: int
    digest: str
    algorithm: str = "sha256"


class _Failed(Exception):
    """One address did not deliver; the next one is tried."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split()))  # one line, whatever a server says


class _Slow(_Failed):
    pass


def fetch(remote: Remote, folder: Path, urls: Sequence[str]) -> Path:
    """Download a file, once, however many processes ask for it.

    Args:
        remote: what is expected.
        folder: where it goes; made if it is not there.
        urls: https addresses, tried in turn; the proxy variables of the environment are honoured.
    Returns:
        The path of the whole, verified file.
    Raises:
        OSError: the folder cannot be written to, or no address delivered the file.
    """
    from filelock import FileLock

    target, part = folder / remote.name, folder / f"{remote.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{remote.name}.lock"):
            if not target.exists():  # else another process fetched it meanwhile
                _from_any(remote, part, urls)
                os.replace(part, target)
    except _Failed as failed:
        raise OSError(
            f"{remote.name} could not be downloaded ({failed}); "
            f"fetch it by hand and put it here: {target}"
        ) from None
    except OSError as error:
        raise OSError(
            f"cannot write {remote.name} to {folder} ({error.strerror or error}); "
            "set DDPM_CACHE to a folder you can write to"
        ) from None
    return target


def _from_any(remote: Remote, part: Path, urls: Sequence[str]) -> None:
    """First at full speed from any address; then, if all are slow, slowly from one of those."""
    failures, slow = [], []
    for url in urls:
        try:
            return _from_one(remote, part, url, FLOOR)
        except _Failed as failed:
            print(f"{url}: {failed}", flush=True)
            failures.append(f"{url}: {failed}")
            slow += [url] if isinstance(failed, _Slow) else []
    for url in slow:
        print(f"no faster address; going on slowly with {url} (stopping keeps what came)")
        try:
            return _from_one(remote, part, url, 0)
        except _Failed as failed:
            failures.append(f"{url}: {failed}")
    raise _Failed("; ".join(failures))


def _from_one(remote: Remote, part: Path, url: str, floor: float) -> None:
    """Ask one address until the file is whole, as long as each answer brings something."""
    for _ in range(RETRIES):
        before = _size(part)
        error = _receive(remote, part, url, floor) if before < remote.size else None
        if _size(part) >= remote.size:
            if _right(remote, part):
                return
            part.unlink()
            if before == 0:
                raise _Failed(f"sent another file: its {remote.algorithm} is wrong")
        elif error or _size(part) <= before:
            raise error or _Failed(f"ended after {_size(part):,} of {remote.size:,} bytes")
    raise _Failed(f"was cut off {RETRIES} times")


def _receive(remote: Remote, part: Path, url: str, floor: float) -> _Failed | None:
    """Append one answer's bytes to the part; the failure that ended it early, if it was one.

    A server that begins anew writes beside the part, and the longer of the two stays.
    """
    from tqdm.auto import tqdm

    had, options = _size(part), {"unit": "B", "unit_scale": True, "desc": remote.name}
    with _ask(url, had) as answer:
        start = _check(answer, remote, had)
        place = part if start == had else part.with_suffix(".new")
        with (
            open(place, "ab" if start else "wb") as file,
            tqdm(total=remote.size, initial=start, **options) as bar,
        ):
            failed = _copy(answer, file, bar, remote.size, floor)
            file.flush()
            os.fsync(file.fileno())
    if place != part and _size(place) > had:
        os.replace(place, part)
    elif place != part:
        place.unlink()
    return failed


def _copy(answer: Any, file: Any, bar: Any, size: int, floor: float) -> _Failed | None:
    since, marked = time.monotonic(), file.tell()
    while file.tell() < size:
        try:
            block = answer.read1(1 << 18)  # what is there: read() would wait for all of it
        except TimeoutError:
            return _Slow(f"sent nothing for {TIMEOUT:.0f} s")
        except (OSError, HTTPException):
            return None  # cut off: worth another try
        if not block:
            return None
        if not file.tell() and block.lstrip()[:9].lower().startswith((b"<html", b"<!doctype")):
            return _Failed("sent a web page instead of the file")
        file.write(block[: size - file.tell()])
        bar.update(len(block))
        if (passed := time.monotonic() - since) > WINDOW:
            if (file.tell() - marked) / passed < floor:
                return _Slow(f"slower than {floor / 1000:.0f} kB/s")
            since, marked = time.monotonic(), file.tell()
    return None


def _ask(url: str, start: int) -> Any:
    headers = {"User-Agent": "ddpm_helpers", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        _only_https(url)
        return build_opener(_HttpsRedirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:  # the part is longer than the server's file
            return _ask(url, 0)
        raise _Failed(f"answered {error.code} {error.reason}") from None
    except TimeoutError:
        raise _Slow(f"did not answer for {TIMEOUT:.0f} s") from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no address at all
        raise _Failed(f"{getattr(error, 'reason', '') or error}") from None


def _check(answer: Any, remote: Remote, start: int) -> int:
    """Refuse what cannot be the file before a byte of the part is lost; where its bytes begin."""
    kind = answer.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _Failed("sent a web page instead of the file")
    if answer.status == 206:
        if answer.headers.get("Content-Range") != f"bytes {start}-{remote.size - 1}/{remote.size}":
            raise _Failed(f"sent another range: {answer.headers.get('Content-Range')}")
        return start
    if answer.status != 200:
        raise _Failed(f"answered {answer.status} {answer.reason}")
    length = answer.headers.get("Content-Length")
    if length is not None and length != str(remote.size):
        raise _Failed(f"offers {length} bytes, not {remote.size}")
    return 0


def _only_https(url: str) -> None:
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not local:
        raise _Failed("refused: only https addresses are trusted")


class _HttpsRedirects(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _only_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _right(remote: Remote, path: Path) -> bool:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, remote.algorithm).hexdigest()
    return path.stat().st_size == remote.size and found == remote.digest
