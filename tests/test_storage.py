"""Results on disk: replaced whole or not at all, and by one command at a time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from chemeleon.errors import ConfigError
from chemeleon.generation.sampling import SAMPLE_PARTS
from chemeleon.storage import (
    Draft,
    hold,
    is_ours,
    refuse_inside,
    replacing,
    settle,
    write_atomically,
    write_text,
)
from chemeleon.training.launch import RUN_PARTS

PARTS = ("a", "b", "folder")
OLD = {"a": "old", "folder/x": "old", "folder/y": "old", "mine.txt": "kept"}
NEW = {"b": "new", "folder/y": "new", "mine.txt": "kept"}


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return earlier(tmp_path / "out")


def earlier(folder: Path) -> Path:
    """Make a folder with an earlier result, and a file of the user's."""
    for name, text in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def replace(folder: Path) -> None:
    with replacing(folder, PARTS, True) as draft:
        for name, text in NEW.items():
            if name != "mine.txt":
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_text(text)


def killed(work: Callable[[], None]) -> int:
    """Do work in a process of its own; return its exit code, negative for a signal."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def test_a_result_takes_the_place_of_the_old_one(result: Path) -> None:
    replace(result)
    assert tree(result) == NEW
    assert sorted(p.name for p in result.iterdir()) == ["b", "folder", "mine.txt"]


CALLS = ("rename", "unlink", "rmdir", "mkdir", "open")


def test_killed_before_any_step_it_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """A process is killed at the first, second, ... of its system calls, until it gets through."""
    ends, code = [], 1
    for number in range(1, 100):
        folder = earlier(tmp_path / f"trial-{number}")

        def work(folder: Path = folder, number: int = number) -> None:
            count = 0

            def counted(real: Callable[..., object], *words: object, **more: object) -> object:
                nonlocal count
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*words, **more)

            for name in CALLS:
                setattr(os, name, partial(counted, getattr(os, name)))
            replace(folder)

        code = killed(work)
        settle(folder)
        content = tree(folder).items()
        ends.append({name: text for name, text in content if not is_ours(name.split("/")[0])})
        replace(folder)  # the dead process's lock is none, and nothing of it is left
        assert tree(folder) == NEW
        if code == 0:
            break
        assert code == -signal.SIGKILL
    turn = ends.index(NEW)  # the moment from which the new one counts
    assert 5 < turn < len(ends) - 5, (turn, len(ends))
    assert ends == [OLD] * turn + [NEW] * (len(ends) - turn)


def test_an_error_leaves_the_old_result_and_nothing_else(result: Path) -> None:
    def fail(folder: Path, overwrite: bool) -> None:
        with replacing(folder, PARTS, overwrite) as draft:
            (draft / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(result, True)
    assert tree(result) == OLD
    with pytest.raises(ConfigError, match=r"out already holds a, folder: name another -o, or rep"):
        fail(result, False)
    with pytest.raises(ZeroDivisionError):
        fail(result.parent / "new" / "one", False)
    assert not (result.parent / "new").exists()


@pytest.mark.parametrize("named", [True, False])
def test_errors_of_the_disk_name_the_place_that_the_user_knows(result: Path, named: bool) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *((str(path),) if named else ()))

    def fill(folder: Path) -> None:
        with replacing(folder, PARTS, True) as draft:
            full(draft / "folder" / "x")

    with pytest.raises(OSError, match="No space left") as caught:
        fill(result)
    assert caught.value.filename == str(result / "folder" / "x" if named else result)
    assert tree(result) == OLD

    def fail(beside: Path) -> None:
        beside.write_text("half")
        full(beside)

    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(result / "a", fail)
    assert caught.value.filename == str(result / "a")
    assert tree(result) == OLD


def test_a_second_command_says_who_holds_a_folder(result: Path) -> None:
    code = (
        "import sys, pathlib; from chemeleon.storage import hold, MODEL_PARTS\n"
        "with hold(pathlib.Path(sys.argv[1]), MODEL_PARTS): print('held', flush=True); input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(result)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    said = rf"out is being written to by process {first.pid} on \S+ since \S+ \(`-c .*`\): wait"
    for parts in (RUN_PARTS, SAMPLE_PARTS):  # of another kind, too
        with pytest.raises(ConfigError, match=said), hold(result, parts):
            pass
    first.kill()
    first.wait()
    assert (result / ".lock").exists()
    with hold(result, RUN_PARTS):  # the lock of a dead process is none
        pass
    assert tree(result) == OLD


def test_a_file_is_held_too_and_what_was_killed_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "hull.json"
    others = [".hull.json.7.tmp.x", ".other.json.12.tmp", "hull.json.12.tmp"]
    for name in (".hull.json.123.tmp", *others):
        (tmp_path / name).write_text("left")
    with hold(target):
        with pytest.raises(ConfigError, match=r"hull\.json is being written to by"), hold(target):
            pass
        write_text(target, "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "hull.json"])


def test_leftovers_are_removed_and_what_is_the_users_is_not(result: Path) -> None:
    (result / ".making" / "cif").mkdir(parents=True)  # of an earlier version
    (result / ".making-abc" / "new").mkdir(parents=True)
    (result / ".a.99.tmp").write_text("left")
    (result / ".hidden").write_text("mine")
    link = result / ".making-link"
    link.symlink_to(result / "folder")
    with hold(result, PARTS):
        pass
    assert tree(result) == {**OLD, ".hidden": "mine"}
    link.unlink()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_once_and_written_to(
    code: int, result: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (result / ".making-abc" / "new").mkdir(parents=True)  # of one who may live
    (result / ".a.99.tmp").write_text("of one who may live")
    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("chemeleon.locks._told", set())
    replace(result)
    replace(result)
    assert tree(result) == NEW | {".a.99.tmp": "of one who may live"}
    assert (result / ".making-abc" / "new").is_dir()
    assert not (result / ".lock").exists()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        f"{result} is on a disk without locks ({os.strerror(code)}): let no other command write"
        " there meanwhile"
    )
    (result / ".lock").write_text("process 7")  # held by a host that has locks
    with hold(result, PARTS):
        pass
    assert (result / ".lock").read_text() == "process 7"


def test_what_was_cut_off_is_finished_without_locks(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    for goes_on in (settle, replace):
        draft = Draft(result, PARTS)
        draft.begin()
        (draft.path / "a").write_text("new")
        draft.path.parent.rename(result / ".ready")
        goes_on(result)
        assert tree(result) == ({"a": "new", "mine.txt": "kept"} if goes_on is settle else NEW)


def test_other_refusals_of_a_lock_are_errors(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="Input/output error") as caught:
        replace(result)
    assert caught.value.filename == str(result)
    assert tree(result) == OLD | {".lock": ""}


def test_a_hostile_folder_moves_nothing_from_elsewhere(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "model"
    (home / "new").mkdir(parents=True)
    (home / "new" / "key").write_text("secret")
    folder.mkdir()
    for name in (".ready", ".placing"):
        (folder / name).symlink_to(home)
    settle(folder)
    assert (home / "new" / "key").read_text() == "secret"
    (folder / ".ready").unlink()
    (folder / ".ready" / "old").mkdir(parents=True)
    (folder / ".ready" / "parts.json").write_text(json.dumps(["../home", "/etc", 3, "..", ""]))
    settle(folder)
    assert (home / "new" / "key").read_text() == "secret"


def test_what_cannot_be_put_in_place_is_put_back(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def refused(path: Path, goal: Path) -> Path:
        if path == result / "folder":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, goal)

    monkeypatch.setattr(Path, "rename", refused)
    for _ in range(2):
        with pytest.raises(PermissionError):
            replace(result)
        assert tree(result) == OLD
    monkeypatch.undo()
    replace(result)
    assert tree(result) == NEW


def test_files_of_others_stay(result: Path) -> None:
    for name in (".cache.7.tmp", ".ready/x", ".placing/x", ".making/x"):
        (result / name).parent.mkdir(exist_ok=True)
        (result / name).write_text("mine")
    with hold(result, PARTS):
        pass
    assert len(tree(result)) == len(OLD) + 4
    with pytest.raises(ConfigError, match="is a folder: name a file"), hold(result):
        pass


def test_what_is_read_is_not_replaced(result: Path) -> None:
    for source in (result, result / "folder", result / "folder" / "x"):
        with pytest.raises(ConfigError, match="would be replaced in"):
            refuse_inside(source, result, PARTS)
    refuse_inside(result / "mine.txt", result, PARTS)


def test_a_reader_waits_for_a_command_that_lives(result: Path) -> None:
    with Draft(result, PARTS) as draft, hold(result, PARTS):
        draft.begin()
        (draft.path / "a").write_text("new")
        draft.path.parent.rename(result / ".ready")
        settle(result)
        assert (result / "a").read_text() == "old"
    settle(result)
    assert tree(result) == {"a": "new", "mine.txt": "kept"}


def test_a_draft_is_where_the_folder_is_before_and_after(tmp_path: Path) -> None:
    draft = Draft(tmp_path, RUN_PARTS)
    assert draft.path == tmp_path
    assert not draft.replaces()
    (tmp_path / "config.yaml").write_text("old")
    assert draft.replaces()
    with draft:
        draft.begin()
        (draft.path / "config.yaml").write_text("new")
        assert (tmp_path / "config.yaml").read_text() == "old"
        draft.commit()
        assert draft.path == tmp_path
        draft.commit()
    assert (tmp_path / "config.yaml").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("call", ["mkdir", "write_text"])
def test_a_disk_without_room_for_a_draft(
    result: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real, count = getattr(Path, call), 0

    def full(path: Path, *words: object, **more: object) -> object:
        nonlocal count
        if ".making-" in str(path):
            count += 1
            if count == 2 or call == "write_text":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *words, **more)

    monkeypatch.setattr(Path, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        replace(result)
    monkeypatch.undo()
    assert str(caught.value.filename).startswith(str(result))
    assert ".making" not in caught.value.filename
    assert tree(result) == OLD


def test_what_others_made_to_look_unfinished_moves_nothing_of_ours(tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "key").write_text("secret")
    placing, ready, pipe, deep = (tmp_path / n for n in ("placing", "ready", "pipe", "deep"))
    for folder, hidden in ((placing, ".placing"), (ready, ".ready"), (pipe, ".ready")):
        (folder / hidden).mkdir(parents=True)
        (folder / "config.yaml").write_text("theirs")
    (placing / ".placing" / "new").symlink_to(ours)
    (ready / ".ready" / "old").symlink_to(ours)
    (ready / ".ready" / "parts.json").write_text('["config.yaml", "..", ""]')
    (pipe / ".ready" / "old").mkdir()
    os.mkfifo(pipe / ".ready" / "parts.json")
    (deep / ".ready" / "old").mkdir(parents=True)
    (deep / ".ready" / "parts.json").write_text("[" * 100_000)
    for folder in (placing, ready, pipe, deep):
        settle(folder)
    assert [path.name for path in ours.iterdir()] == ["key"]
    for folder in (placing, ready, pipe):
        assert (folder / "config.yaml").read_text() == "theirs"
