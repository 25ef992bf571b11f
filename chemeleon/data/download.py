"""Fetch a public data set over HTTP, going on where a broken download stopped."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from rich.progress import DownloadColumn, TimeRemainingColumn

from chemeleon.config.requests import whole_number
from chemeleon.config.schema import DataConfig, DownloadConfig
from chemeleon.data.dataset import dataset_dir
from chemeleon.data.files import readable
from chemeleon.data.tables import open_table
from chemeleon.errors import DataError
from chemeleon.storage import SET_PARTS, hold
from chemeleon.terminal import progress_bar

_BLOCK = 1 << 18
_TIMEOUT_S = 30
_ATTEMPTS = 3

Advance = Callable[..., None]  # completed=, total=


def download(config: DataConfig, root: str | Path | None = None, progress: bool = False) -> Path:
    """Fetch all splits of a data set; those that are there and complete are left alone.

    A file is fetched as ``{split}.csv.part`` and renamed when its size and rows are right; a
    broken download goes on from the ``.part`` file. ``$CHEMELEON_DATA_URL`` replaces scheme and
    host, for mirrors.

    Args:
        config: with a ``download`` section.
        root: folder of data sets; that of the config if not given.
        progress: show a bar.

    Returns:
        The folder of the data set.

    Raises:
        DataError: without network, for a missing file, or if what arrives is not what it should be.
    """
    if config.download is None:
        raise DataError(
            f"data set '{config.name}' has no public address (data.download); get it by other means"
            " and make it with `chemeleon data prepare SOURCE -o FOLDER`"
        )
    folder = Path(root) / config.name if root is not None else dataset_dir(config)
    rows = config.download.rows
    if all(_is_complete(_goal(config.download, folder, s), n) for s, n in rows.items()):
        return folder  # which may be on a read-only disk
    with hold(folder, SET_PARTS):
        return _download(config, config.download, folder, progress)


def _goal(source: DownloadConfig, folder: Path, split: str) -> Path:
    return folder / (f"{split}.csv.gz" if source.url.endswith(".gz") else f"{split}.csv")


def _is_complete(path: Path, rows: int) -> bool:
    return path.is_file() and _count_rows(path) == rows


def _download(config: DataConfig, source: DownloadConfig, folder: Path, progress: bool) -> Path:
    for split, rows in source.rows.items():
        url = _address(source.url.replace("{split}", split))
        path = _goal(source, folder, split)
        if _is_complete(path, rows):
            continue
        part = path.with_name(path.name + ".part")
        columns = DownloadColumn(), TimeRemainingColumn()
        with progress_bar(*columns, transient=True, shown=progress) as bar:
            task = bar.add_task(f"{config.name} {split}", total=None)
            _fetch(url, part, partial(bar.update, task))
        found = _count_rows(part)
        if found != rows:
            part.unlink()
            raise DataError(
                f"{url} holds {found} crystals instead of {rows}, so it is not the published file;"
                " nothing was kept. Set CHEMELEON_DATA_URL to a mirror, or place the file at"
                f" {path} yourself"
            )
        part.replace(path)
    return folder


def _address(url: str) -> str:
    base = os.environ.get("CHEMELEON_DATA_URL")
    scheme = urllib.parse.urlsplit(base or url).scheme
    if scheme not in {"http", "https"}:
        raise DataError(f"{base or url} must start with http:// or https://")
    return base.rstrip("/") + urllib.parse.urlsplit(url).path if base else url


def _fetch(url: str, part: Path, advance: Advance) -> None:
    """Bring ``part`` to the full content of ``url``; a few broken connections are forgiven."""
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _fetch_once(url, part, advance):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the .part file is as long as the file, or longer: start again
                part.unlink(missing_ok=True)
                reason = "the partial file did not fit"
            elif error.code < 500:
                raise DataError(
                    f"{url} answers {error.code} {error.reason}: the file is not there; set"
                    " CHEMELEON_DATA_URL to a mirror, or get it by other means"
                ) from None
            else:
                reason = f"the server answers {error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            reason = str(cause) or type(error).__name__
        if part.exists() and part.stat().st_size > before:
            continue_hint = "what has arrived is kept: run the same command again to resume"
        else:
            continue_hint = "check the network (or proxy), then run the same command again"
        if attempt == _ATTEMPTS:
            raise DataError(f"{url} could not be fetched: {reason}; {continue_hint}")


def _fetch_once(url: str, part: Path, advance: Advance) -> bool:
    """Ask for what is missing and append it; False if the connection ended before the end."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "chemeleon", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == 206 and _range_start(response) == start
        if start and not resumed:
            start = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        size = None if length is None else whole_number(length)
        total = None if size is None else start + size
        done = start
        advance(completed=done, total=total)
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read1(_BLOCK):
                file.write(block)
                done += len(block)
                advance(completed=done, total=total)
    return total is None or done == total


def _range_start(response: HTTPResponse | Any) -> int | None:
    value = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return whole_number(value)


def _count_rows(path: Path) -> int:
    """Return the records of a CSV without its header; -1 if it is none."""
    try:
        with readable(path), path.open("rb") as file:
            return sum(1 for _ in open_table(file, path.name, None).rows)
    except DataError:
        return -1
