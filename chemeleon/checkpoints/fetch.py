"""Fetch one file of the hub into huggingface_hub's cache, and say in words what went wrong.

What huggingface_hub gives: the cache and its layout, tokens, the progress bar, one download at a
time across processes, and going on with ``Range`` when a connection breaks. Added here: a first
look at the file that fails within seconds instead of half a minute without network, retries of
server errors in the middle of a download, and one line for each kind of failure.
"""

from __future__ import annotations

import errno
import logging
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chemeleon.errors import CheckpointError

log = logging.getLogger(__name__)
LOOK_WAITS_SECONDS = (0.5, 2.0)
LOOK_PATIENCE_SECONDS = 5.0  # a hub that was silent for longer is not asked again
# fewer: huggingface_hub has already tried to go on several times when an error comes from here
LOAD_WAITS_SECONDS = (0.5, 1.0)
_BUSY = (408, 429, 500, 502, 503, 504)
# httpx (huggingface_hub 1 and later) and requests (before); by name, as either may be missing
_NETWORK = {"TransportError", "RequestException", "ConnectionError", "TimeoutError"}
_LOG_IN = "run `hf auth login` or set HF_TOKEN"
T = TypeVar("T")


def fetch(repo: str, file: str, revision: str, most_bytes: int | None = None) -> Path:
    """Return the local path of a file of the hub, downloading it if it is not cached.

    The path is ``.../snapshots/COMMIT/FILE``. If the hub cannot be asked, the copy that was last
    seen at this revision is used, with a warning. A file over ``most_bytes`` is not fetched.

    Raises:
        CheckpointError: one line that says what to do.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    cached = cached_file(repo, file, revision)
    if cached is not None and is_commit(revision):
        return cached  # a commit never changes: nothing to ask
    url = hf_hub_url(repo, file, revision=revision)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    # with a copy at hand there is no sense in waiting for a hub that does not answer
    waits = LOOK_WAITS_SECONDS if cached is None else ()
    try:
        found = _patiently(
            lambda: get_hf_file_metadata(url, timeout=timeout), waits, LOOK_PATIENCE_SECONDS
        )
    except Exception as error:
        words = in_words(error, repo, file, revision)
        if cached is None or isinstance(error, (RevisionNotFoundError, EntryNotFoundError)):
            raise CheckpointError(words) from error
        if not isinstance(error, OfflineModeIsEnabled):
            log.warning("%s. Using the copy in the cache, %s", words, cached)
        return cached
    if most_bytes is not None and (found.size or 0) > most_bytes:
        raise CheckpointError(
            f"{repo}: {file} ({revision}) has {found.size:,} bytes, over {most_bytes:,}: it is not"
            " what its name says, so it is not fetched"
        )
    try:
        path = _patiently(
            lambda: hf_hub_download(repo, file, revision=revision), LOAD_WAITS_SECONDS
        )
    except Exception as error:
        raise CheckpointError(in_words(error, repo, file, revision)) from error
    return Path(path)


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit hash, which always means the same content."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def cached_file(repo: str, file: str, revision: str) -> Path | None:
    """Return the cached copy of a file, without asking the network; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _patiently(
    call: Callable[[], T], waits: tuple[float, ...], patience_seconds: float = math.inf
) -> T:
    """Try again after server errors, time-outs and broken connections: some seconds in all.

    Where there is no connection at all (no such host, refused), only once: a network that is off
    stays off.
    """
    start = time.monotonic()
    for tried, wait in enumerate(waits):
        try:
            return call()
        except Exception as error:
            late = time.monotonic() - start > patience_seconds
            status = _status(error)
            may_pass = _is_network(error) if status is None else status in _BUSY
            if late or not may_pass or (tried and "ConnectError" in _kinds(error)):
                raise
            log.info("%s: trying again in %s s", type(error).__name__, wait)
            time.sleep(wait)
    return call()


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_network(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return not isinstance(error, OfflineModeIsEnabled) and not _NETWORK.isdisjoint(_kinds(error))


def _kinds(error: BaseException) -> list[str]:
    return [base.__name__ for base in type(error).__mro__]


def in_words(error: BaseException, repo: str, file: str, revision: str) -> str:
    """Say in one line what went wrong with a file of the hub, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return in_words(error.__cause__, repo, file, revision)
    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{repo}: {file} ({revision}) is not in the cache {constants.HF_HUB_CACHE} and"
            " HF_HUB_OFFLINE is set: unset it, or run `chemeleon hub pull` where there is a network"
            " and copy the cache"
        )
    if isinstance(error, GatedRepoError):
        return (
            f"{repo} is gated: accept its conditions at {constants.ENDPOINT}/{repo}, then {_LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision '{revision}': name a branch, a tag or a full commit hash"
    if isinstance(error, EntryNotFoundError):
        hint = "" if file.endswith(".ckpt") else "; a model has config.yaml and model.safetensors"
        return f"{repo} has no file '{file}' at revision '{revision}'{hint}"
    if status in {401, 403, 404}:
        return (
            f"{repo} does not exist, or your account may not use it ({constants.ENDPOINT} answers"
            f" {status}): check the name; if it is private, {_LOG_IN}"
        )
    if status == 429:
        return (
            f"{constants.ENDPOINT} asks to wait (429, too many requests): try later, or {_LOG_IN}"
        )
    if status is not None:
        return f"{constants.ENDPOINT} answers {status} for {repo}: try again later"
    return _local_problem(error, repo) or (
        f"{constants.ENDPOINT} cannot be reached for {repo} ({_first_line(error)}): check the"
        " network and proxy, or name a mirror in HF_ENDPOINT"
        if _is_network(error)
        else f"{repo}: {file} could not be fetched: {_first_line(error)}; run it again"
    )


def push_in_words(error: BaseException, repo: str) -> str:
    """Say in one line why an upload failed, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo} cannot be written while HF_HUB_OFFLINE is set: unset it"
    if status in {401, 403, 404}:
        return (
            f"your account may not write to {repo} ({constants.ENDPOINT} answers {status}):"
            f" {_LOG_IN}, with a token that may write there"
        )
    if status is not None:
        return f"{constants.ENDPOINT} answers {status} for {repo}: {_first_line(error)}"
    if _is_network(error):
        return in_words(error, repo, "", "")
    return f"{repo} could not be written: {_first_line(error)}"


def _local_problem(error: BaseException, repo: str) -> str | None:
    from huggingface_hub import constants

    code = getattr(error, "errno", None)
    if code in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"the disk is full: no room for {repo} in {constants.HF_HUB_CACHE}. Free some space, or"
            " name another folder in HF_HOME"
        )
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"{constants.HF_HUB_CACHE} cannot be written ({_first_line(error)}): name another"
            " folder in HF_HOME"
        )
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
