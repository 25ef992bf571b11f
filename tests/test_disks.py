"""A disk that is full, read-only or refuses: one line with the path, the old result is whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Done, Forks
from six_commands import NAMES, Case, Place, listing, whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PAGE = 4096


def mount(*words: object) -> None:
    """Mount, or skip: it takes root and a system that allows it."""
    try:
        command = ["mount", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that a test may mount something on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    for _ in range(2):
        subprocess.run(["umount", "-q", folder], capture_output=True, check=False)


def complain(place: Place, done: Done) -> list[str]:
    """Return what is wrong after a command that could not write."""
    if done.code == 0 and place.state() == "new" and listing(place.work) == place.files["b"]:
        return []  # there was room enough
    wrong = []
    if done.code != 2:
        wrong.append(f"exit code {done.code}")
    if len(done.errors) != 1 or not done.errors[0].startswith("error: "):
        wrong.append(f"not one line: {done.errors[:3]} ... {done.errors[-2:]}")
    elif str(place.work) not in done.errors[0]:
        wrong.append(f"no path: {done.errors[0]}")
    if whole(place.work) != place.old_bytes:
        wrong.append(f"the old result is not whole: {place.left()}")
    if files := sorted(set(listing(place.work)) - set(place.files["a"])):
        wrong.append(f"leftovers: {files[:5]}")
    return wrong


def size(folder: Path) -> int:
    """Return the bytes that files take on a tmpfs."""
    return sum(-(-p.stat().st_size // PAGE) * PAGE for p in folder.rglob("*") if p.is_file())


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes on a disk."""
    filler = disk / "filler"
    found = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - room))
    return filler


def afterwards(place: Place) -> list[str]:
    """Return what is wrong with the command when nothing refuses any more."""
    done = place.run("b")
    if done.code:
        return [f"then, with room: {done.code} {done.errors[-2:]}"]
    wrong = [] if listing(place.work) == place.files["b"] else [f"then, with room: {place.left()}"]
    return wrong + ([] if place.state() == "new" else [f"then, with room: {place.state()}"])


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(name: str, six: dict[str, Case], forks: Forks, disk: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)
    place = Place(name, six[name], forks, disk)
    place.run("b")
    needed = size(place.work)
    failed = []
    for room in (0, PAGE, 2 * PAGE, *(int(share * needed) for share in (0.3, 0.6, 0.9))):
        place.restore()
        filler = fill(disk, room)
        done = place.run("b")
        if room == 0 and done.code == 0:
            failed.append("no room, and nothing failed")
        failed += [f"{room} bytes of {needed} free: {wrong}" for wrong in complain(place, done)]
        filler.unlink()
        if room in (0, 2 * PAGE):
            failed += afterwards(place)
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_takes_no_more_files(
    name: str, six: dict[str, Case], forks: Forks, disk: Path
) -> None:
    mount("-t", "tmpfs", "-o", "size=64m,nr_inodes=3000", "tmpfs", disk)
    place = Place(name, six[name], forks, disk)
    failed = []
    for room in (0, 1, 2, 4):
        place.restore()
        (disk / "many").mkdir()
        for number in range(os.statvfs(disk).f_favail - room):
            (disk / "many" / str(number)).touch()
        done = place.run("b")
        subprocess.run(["rm", "-r", disk / "many"], check=True)
        failed += [f"room for {room} files: {wrong}" for wrong in complain(place, done)]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_disk(
    name: str, six: dict[str, Case], forks: Forks, disk: Path, tmp_path: Path
) -> None:
    place = Place(name, six[name], forks, disk)
    mount("--bind", place.work, place.work)
    mount("-o", "remount,ro,bind", place.work)
    try:
        failed = complain(place, place.run("b"))
    finally:
        subprocess.run(["umount", place.work], check=True)
    failed += afterwards(place)
    place.restore()
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_on_the_size_of_files(
    name: str, six: dict[str, Case], forks: Forks, tmp_path: Path
) -> None:
    place = Place(name, six[name], forks, tmp_path)
    place.run("b")
    largest = max(p.stat().st_size for p in place.work.rglob("*") if p.is_file())
    failed = []
    limits = [2000, largest // 2, largest - 1]  # what is said needs some bytes, too
    if name == "train":
        limits.pop()  # its first state is smaller, and takes the place of the earlier run
    for limit in limits:
        place.restore()
        done = place.run("b", largest_file=max(2000, limit))
        failed += [f"{limit} bytes of {largest}: {wrong}" for wrong in complain(place, done)]
    failed += afterwards(place)
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", NAMES)
def test_a_first_result_on_a_full_disk(
    name: str, six: dict[str, Case], forks: Forks, disk: Path
) -> None:
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)
    place = Place(name, six[name], forks, disk)
    subprocess.run(["rm", "-r", place.output], check=True)
    place.old_bytes, place.files["a"] = {}, []
    filler = fill(disk, 2 * PAGE)
    failed = complain(place, place.run("b"))
    filler.unlink()
    failed += afterwards(place)
    assert not failed, "\n".join(failed)
