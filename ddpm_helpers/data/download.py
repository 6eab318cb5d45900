"""Download a file and verify it, or fail with one clear line.

Only https. Addresses are tried in turn. The bytes received are kept as NAME.part, from which the
next address or the next run resumes. The file gets its name once its size and checksum are right.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT = 30.0  # seconds without a byte that end a connection
RETRIES = 20  # requests to one address, each resuming where the last was cut off
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Remote:
    """A file to download: its name on disk, size in bytes and MD5 in hexadecimal digits."""

    name: str
    size: int
    md5: str


class _Failed(Exception):
    """One address did not deliver; the next one is tried."""


def fetch(remote: Remote, folder: Path, urls: Sequence[str]) -> Path:
    """Download a file, once even if several processes ask for it.

    Args:
        remote: the expected file.
        folder: where it goes; made if missing.
        urls: https addresses, tried in turn; the environment's proxy variables are respected.
    Returns:
        The path of the verified file.
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
            "name another root, or set DDPM_CACHE to a folder you can write to"
        ) from None
    return target


def _from_any(remote: Remote, part: Path, urls: Sequence[str]) -> None:
    """Try the addresses in turn."""
    failures = []
    for url in urls:
        try:
            return _from_one(remote, part, url)
        except _Failed as failed:
            why = f"{url}: {' '.join(str(failed).split())}"  # one line, whatever a server says
            print(why, flush=True)
            failures.append(why)
    raise _Failed("; ".join(failures))


def _from_one(remote: Remote, part: Path, url: str) -> None:
    """Request the rest from one address until the file is complete or a response adds nothing."""
    for _ in range(RETRIES):
        before = _size(part)
        if before < remote.size:
            _receive(remote, part, url)
        if _size(part) >= remote.size:
            if _right(remote, part):
                return
            part.unlink()
            if before == 0:
                raise _Failed("sent another file: its MD5 is wrong")
        elif _size(part) == before:
            raise _Failed(f"ended after {before:,} of {remote.size:,} bytes")
    raise _Failed(f"was cut off {RETRIES} times")


def _receive(remote: Remote, part: Path, url: str) -> None:
    """Append the bytes of one response to the part file; a connection cut off is not an error."""
    from tqdm.auto import tqdm

    had, options = _size(part), {"unit": "B", "unit_scale": True, "desc": remote.name}
    with (
        _ask(remote, url, had) as answer,
        open(part, "ab") as file,
        tqdm(total=remote.size, initial=had, **options) as bar,
    ):
        at = had if answer.status == 206 else 0  # 0: the server sends the known bytes again
        while at < remote.size:
            try:
                block = answer.read1(1 << 18)  # what has arrived; read() would wait for all
            except TimeoutError:
                raise _Failed(f"sent nothing for {TIMEOUT:.0f} s") from None
            except (OSError, HTTPException):
                return
            if not block:
                return
            new = block[max(0, had - at) : remote.size - at]
            file.write(new)
            bar.update(len(new))
            at += len(block)


def _ask(remote: Remote, url: str, start: int) -> Any:
    """Open a response with the file from byte `start` (status 206) or from the beginning."""
    headers = {"User-Agent": "ddpm_helpers", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        _only_https(url)
        answer = build_opener(_HttpsRedirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        raise _Failed(f"answered {error.code} {error.reason}") from None
    except TimeoutError:
        raise _Failed(f"did not answer for {TIMEOUT:.0f} s") from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise _Failed(f"{getattr(error, 'reason', '') or error}") from None
    if why := _not_the_file(answer, remote.size, start):
        answer.close()
        raise _Failed(why)
    return answer


def _not_the_file(answer: Any, size: int, start: int) -> str:
    """Why the headers of a response cannot be those of the file; empty if they can."""
    found = answer.headers
    if found.get_content_type() in ("text/html", "application/xhtml+xml"):
        return "sent a web page instead of the file"
    if answer.status == 206:
        span = found.get("Content-Range")
        return "" if span == f"bytes {start}-{size - 1}/{size}" else f"sent another range: {span}"
    if answer.status != 200:
        return f"answered {answer.status} {answer.reason}"
    length = found.get("Content-Length", str(size))
    return "" if length == str(size) else f"offers {length} bytes, not {size}"


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
    with open(path, "rb+") as file:
        os.fsync(file.fileno())  # on the disk before it gets its name
        found = hashlib.file_digest(file, "md5").hexdigest()
    return path.stat().st_size == remote.size and found == remote.md5
