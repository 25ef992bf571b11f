"""Two commands in one folder: one works, the other says who is there. Caches of several users."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Done, Forks
from six_commands import NAMES, Case, Place, hidden, listing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
OTHER = 12345  # another user


def points(place: Place) -> list[int]:
    """Return changes before which the first command waits: one amid its work, and the last move."""
    moves = [i for i, word in enumerate(place.words, start=1) if word.startswith("os.rename")]
    return sorted({max(6, len(place.words) // 2), moves[0], moves[-1]})


def complain(done: Done, pid: int, place: Place) -> list[str]:
    """Return what is wrong with what the second command says."""
    wrong = []
    if done.code != 2 or len(done.errors) != 1:
        return [f"the second: {done.code} {done.errors[-3:] or done.out[-300:]}"]
    said = done.errors[0]
    if str(pid) not in said:
        wrong.append(f"no process {pid} in: {said}")
    if str(place.output) not in said:
        wrong.append(f"no {place.output} in: {said}")
    if place.arguments("a")[0] not in said and socket.gethostname() not in said:
        wrong.append(f"neither command nor host in: {said}")
    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_two_commands_in_one_folder(
    name: str, six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place, failed = Place(name, six[name], forks, tmp_path), []
    for number in points(place):
        place.restore()
        first = place.start("b", stop_at=number)
        if first.until_stopped():
            there = listing(place.work)
            second = place.run("a")
            wrong = complain(second, first.pid, place)
            # whoever comes may finish what the first has begun to put in place
            if listing(place.work) != there and place.bare_state() != "new":
                wrong.append(f"the second changed files: {place.left()}")
            first.send(signal.SIGCONT)
            failed += [f"at change {number}: {text}" for text in wrong]
        done = first.wait()
        if done.code != 0:
            failed.append(f"at change {number}: the first: {done.code} {done.errors[-3:]}")
        elif place.state() != "new" or listing(place.work) != place.files["b"]:
            failed.append(f"at change {number}: {place.state()}, {place.left()}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_two_commands_in_a_new_folder(
    name: str, six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place = Place(name, six[name], forks, tmp_path)
    subprocess.run(["rm", "-r", place.output], check=True)
    first = place.start("b", stop_at=max(6, len(place.words) // 2))
    wrong = []
    if first.until_stopped():
        second = place.run("a")
        wrong = complain(second, first.pid, place)
        first.send(signal.SIGCONT)
    done = first.wait()
    assert done.code == 0, done
    assert place.state() == "new"
    assert listing(place.work) == place.files["b"]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_two_commands_that_race(
    name: str, six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place, failed = Place(name, six[name], forks, tmp_path), []
    for number in range(4):
        place.restore()
        children = [place.start("a"), place.start("b")]
        ends = [child.wait() for child in children]
        codes = [done.code for done in ends]
        for done, other in zip(ends, reversed(children), strict=True):
            if done.code:
                failed += complain(done, other.pid, place)
        if 0 not in codes:
            failed.append(f"race {number}: none worked: {codes}")
        state = place.state()
        expected = {(0, 2): "old", (2, 0): "new"}.get(tuple(codes), state)
        if state not in ("old", "new") or state != expected:
            failed.append(f"race {number}: {codes}, but {state}")
        if listing(place.work) not in (place.files["b"], place.files["a"]):
            failed.append(f"race {number}: {place.left()}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_the_lock_of_a_dead_process_is_taken_over(
    name: str, six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place = Place(name, six[name], forks, tmp_path)
    first = place.start("b", kill_at=max(2, len(place.words) * 3 // 4))
    assert first.wait().code == -signal.SIGKILL
    dead = str(first.pid).encode()
    for path in place.work.rglob("*"):  # its number now belongs to someone else who lives
        if path.is_file() and hidden(str(path.relative_to(place.work))):
            data = path.read_bytes()
            if len(data) < 2000:
                path.write_bytes(data.replace(dead, str(os.getpid()).encode()))
    start = time.monotonic()
    done = place.run("b")
    assert done.code == 0, done
    assert time.monotonic() - start < 60
    assert listing(place.work) == place.files["b"]
    assert place.state() == "new"


def test_training_is_locked_against_all_that_write_there(
    six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place = Place("train", six["train"], forks, tmp_path)
    place.run("b")
    there = place.output
    words = ("vae", "train", "--resume", there, "trainer.max_steps=60")
    first = forks.start(*words, watch=place.work, stop_at=12)
    assert first.until_stopped()
    wrong = []
    for second in (
        forks.run(*words),
        place.run("a"),
        forks.run(*six["convert"].arguments("a", there)),
    ):
        wrong += complain(second, first.pid, place)
    read = forks.run("hub", "convert", there, "-o", tmp_path / "copy")  # the last saved model
    if read.code:
        wrong.append(f"a reader: {read.code} {read.errors}")
    first.send(signal.SIGCONT)
    assert first.wait().code == 0
    assert not wrong, "\n".join(wrong)


# --- a cache of several users


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def foreign() -> Iterator[Forks]:
    """Commands of another user, who may read everything: else Python itself may be out of reach."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, and setpriv, to become another user")
    capability = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    words = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", *capability]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"setpriv: {tried.stderr.strip()}")
    with Forks(tuple(words), HOME="/nonexistent", MPLCONFIGDIR="/tmp") as process:
        yield process


def commands(set_: Path, model: Path, output: Path) -> dict[str, list[object]]:
    """Return commands that use a cache, and write to ``output``."""
    return {
        "describe": ["data", "describe", set_],
        "train": ["vae", "train", "--preset", "demo/dng", "-o", output / "run", "vae.width=32",
                  "vae.encoder_layers=1", "vae.decoder_layers=1", "vae.heads=2",
                  "vae.feedforward=64", "trainer.tracker=none", "trainer.max_steps=2",
                  "trainer.val_match_samples=0"],
        "table": ["vae", "train", "--preset", "demo/dng", "-o", output / "table", "vae.width=32",
                  "vae.encoder_layers=1", "vae.decoder_layers=1", "vae.heads=2",
                  "vae.feedforward=64", "trainer.tracker=none", "trainer.max_steps=2",
                  "trainer.val_match_samples=0", f"data.root={set_.parent}",
                  f"data.name={set_.name}", "data.targets=[]"],
        "evaluate": ["evaluate", model, "-r", set_, "--control", "none", "-o", output / "report"],
        "data hull": ["data", "hull", "mp", "-o", output / "hull.json.gz"],
    }  # fmt: skip


@pytest.mark.parametrize("rights", ["all may write", "locks of others", "only the owner writes"])
def test_a_cache_of_several_users(
    rights: str, six: dict[str, Case], forks: Forks, foreign: Forks, shared: Path
) -> None:
    cache = {"CHEMELEON_CACHE": str(shared / "cache")}
    set_, crystals = shared / "set", shared / "crystals"
    assert forks.run(*six["prepare"].arguments("a", set_)).code == 0
    shutil.copytree(Path(six["evaluate"].arguments("a", set_)[1]), crystals)
    (shared / "mine").mkdir()
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", OTHER, OTHER)
    words = commands(set_, crystals, shared / "mine")
    for name, command in words.items():
        done = forks.run(*command, environment=cache)
        assert done.code == 0, (name, done)
    files = [path for path in (shared / "cache").rglob("*") if path.is_file()]
    assert files
    for path in [shared / "cache", *(shared / "cache").rglob("*")]:
        may = rights != "only the owner writes"
        path.chmod((0o777 if may else 0o755) if path.is_dir() else (0o666 if may else 0o644))
    if rights == "locks of others":
        for path in files:
            if path.suffix != ".lock":
                path.unlink()  # so that it has to be made again, beside a lock of another
            lock = path.with_suffix(".lock")
            lock.touch()
            lock.chmod(0o600)
    failed = []
    for name, command in commands(set_, crystals, shared / "theirs").items():
        done = foreign.run(*command, environment=cache)
        if done.code != 0:
            failed.append(f"{name}: {done.code} {done.errors[-3:]}")
        if "Traceback" in done.err:
            failed.append(f"{name}: {done.err[-800:]}")
    assert not failed, "\n".join(failed)


def test_a_folder_of_another_user(
    six: dict[str, Case], forks: Forks, foreign: Forks, shared: Path
) -> None:
    """What cannot be replaced is refused in a line; what can be is, though another made it."""
    failed = []
    for name in NAMES:
        place = Place(name, six[name], forks, shared / name)
        done = foreign.run(*place.arguments("b"))
        if done.code != 2 or len(done.errors) != 1 or str(place.work) not in done.errors[0]:
            failed.append(f"{name}: {done.code} {done.errors[-3:]}")
        if place.state() != "old" or listing(place.work) != place.files["a"]:
            failed.append(f"{name}: {place.left()}")
    assert not failed, "\n".join(failed)
