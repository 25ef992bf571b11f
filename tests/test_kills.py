"""Whoever is killed leaves the old result or the new one, and nothing that is in the way later."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import Child, Done, Forks
from six_commands import NAMES, SIZES, Case, Place, differences, listing, seen

KILLS = 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def places(
    forks: Forks, six: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Place]:
    """Made when first asked for."""

    class Made(dict[str, Place]):
        def __missing__(self, name: str) -> Place:
            folder = tmp_path_factory.mktemp(name)
            self[name] = Place(name, six[name], forks, folder)
            return self[name]

    return Made()


def moments(place: Place, draw: random.Random, count: int) -> list[float]:
    """Return seconds after the first change: some anywhere, more near changes and near the end."""
    end = place.steps[-1]
    changes = place.steps[1:-1][-40:]
    chosen = []
    for number in range(count):
        kind = number % 4
        if kind == 0:
            chosen.append(draw.uniform(0, end))
        elif kind == 1:
            chosen.append(draw.uniform(0.8 * end, end))
        else:
            chosen.append(max(0, draw.choice(changes or [end]) + draw.gauss(0, 0.003)))
    return chosen


def killed_after(place: Place, child: Child, seconds: float) -> Done:
    """Kill a command so many seconds after the first change to its files."""
    before = place.pulse()
    while child.alive() and place.pulse() == before:
        time.sleep(0.001)
    time.sleep(seconds)
    return child.kill()


def wrong_after(place: Place) -> str | None:
    """Return what is wrong with the result, or with what the next command leaves; else None."""
    told, there = place.state(), place.left()
    if told not in ("old", "new"):
        return told
    done, files = place.run("c"), place.files["c"]
    if done.code != 0:
        return f"was {told}; the next command: {done.code} {done.errors[-3:]}; of {there}"
    if (found := listing(place.work)) != files:
        extra, less = sorted(set(found) - set(files))[:9], sorted(set(files) - set(found))[:9]
        return f"was {told}; the next command leaves {extra}, lacks {less}"
    if seen(place.work) != place.small:
        return f"was {told}; the next command: {differences(seen(place.work), place.small)}"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_twenty_kills_leave_the_old_or_the_new(name: str, places: dict[str, Place]) -> None:
    place, draw = places[name], random.Random(name)
    failed, kills, states = [], 0, []
    for seconds in moments(place, draw, 4 * KILLS):
        if kills == KILLS:
            break
        place.restore()
        done = killed_after(place, place.start("b"), seconds)
        if done.code != -signal.SIGKILL:
            assert done.code == 0, done
            continue  # it was faster
        kills += 1
        states.append(len(done.words))
        if (wrong := wrong_after(place)) is not None:
            failed.append(f"{seconds:.4f} s after the first change, {len(done.words)} changes:"
                          f" {wrong}")  # fmt: skip
    place.restore()
    assert kills == KILLS
    assert not failed, f"{len(failed)} of {kills}:\n" + "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_before_each_change_leaves_the_old_or_the_new(
    name: str, places: dict[str, Place]
) -> None:
    place, draw = places[name], random.Random(name)
    every = range(1, len(place.words) + 1)
    chosen = set(every if len(every) <= 30 else [*every[:6], *every[-16:], *draw.sample(every, 8)])
    failed = []
    for number in sorted(chosen):
        place.restore()
        done = place.run("b", kill_at=number)
        if done.code != -signal.SIGKILL:
            assert done.code == 0, done
            continue  # another order of changes, with less of them
        if (wrong := wrong_after(place)) is not None:
            failed.append(f"before change {number}, {done.words[-1]}: {wrong}")
    place.restore()
    assert not failed, f"{len(failed)} of {len(chosen)}:\n" + "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_a_shell_started_is_no_different(
    name: str, places: dict[str, Place]
) -> None:
    place = places[name]
    command = [sys.executable, "-m", "chemeleon", *map(str, place.arguments("b"))]
    before = place.pulse()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    while process.poll() is None and place.pulse() == before:
        time.sleep(0.001)
    time.sleep(random.Random(name).uniform(0.5, 0.95) * place.steps[-1])
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wrong = wrong_after(place)
    place.restore()
    assert wrong is None


def test_crystals_of_two_samples_are_never_mixed(forks: Forks, tmp_path: Path) -> None:
    work = tmp_path / "work"
    folder, words = work / "out", ("sample", *SIZES, "--overwrite", "-o", work / "out")
    (tmp_path / "work").mkdir()
    draw = random.Random(3)
    for kill in (60, 400, 900, 1400, 1499, 1501, 1503, draw.randrange(1504)):
        child = forks.start(*words, "-n", 1500, watch=work, kill_at=kill)
        code = child.wait().code
        assert code in (0, -signal.SIGKILL)
        done = forks.run(*words, "-n", 5, "--seed", 7)
        assert done.code == 0, done
        assert "5 crystals" in done.out
        assert len(list(folder.rglob("*.cif"))) == 5
        assert listing(work) == [
            "out", "out/cif", *(f"out/cif/sample-{i:06d}.cif" for i in range(5)),
            "out/manifest.json",
        ]  # fmt: skip
        done = forks.run("evaluate", folder, "-o", tmp_path / "report", "--overwrite")
        assert done.code == 0, done
        assert "5 crystals" in done.out


@pytest.mark.parametrize("name", ["evaluate", "prepare", "sample"])
def test_workers_that_outlive_a_kill_are_not_in_the_way(
    name: str, places: dict[str, Place]
) -> None:
    place = places[name]
    more = {"environment": {"CHEMELEON_WORKERS": "2"}}
    child = place.start("b", stop_at=max(1, len(place.words) - 2), **more)
    assert child.until_stopped()
    os.kill(child.pid, signal.SIGKILL)  # not its group
    child.wait()
    wrong = wrong_after(place)
    place.restore()
    assert wrong is None
