"""Matching gives pymatgen's answers, whatever the crystals and however it is called."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import demo_crystals

from chemeleon import workers as pool
from chemeleon.crystals.batch import Crystal
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.evaluation.matching import pairs as matching
from chemeleon.evaluation.matching.pairs import TOLERANCES, match_pairs
from chemeleon.evaluation.work import rescue
from chemeleon.workers import Worker

CUBE = Crystal(np.array([11, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.0 * np.eye(3))
# pymatgen's lattice mapping spends minutes, in long calls of compiled code, on a needle like this
NEEDLE = CUBE._replace(
    frac_coords=np.array([[0.0, 0, 0], [0.5, 0.3, 0.2]]), lattice=np.diag([4.0, 4.0, 10000.0])
)


def _slow_pair() -> matching.Pair:
    """100 atoms of one kind at random places: seconds of short calls."""
    rng = np.random.default_rng(0)
    first = Crystal(np.full(100, 6), rng.random((100, 3)), 11 * np.eye(3))
    return first, first._replace(frac_coords=first.frac_coords + rng.normal(0, 0.02, (100, 3)))


def _noisy_pairs(count: int, seed: int = 0) -> list[matching.Pair]:
    rng = np.random.default_rng(seed)
    crystals = demo_crystals("val")
    chosen = torch.from_numpy(rng.permutation(len(crystals))[:count])
    pairs = []
    for numbers, coords, lattice in crystals.subset(chosen):
        noise = rng.normal(0, rng.choice([0.01, 0.1, 0.3]), coords.shape) @ np.linalg.inv(lattice)
        strained = lattice @ (np.eye(3) + rng.normal(0, 0.05, (3, 3)))
        found = Crystal(numbers, coords + noise, strained)
        pairs.append((found, Crystal(numbers, coords, lattice)))
    return pairs


def _pymatgen(pair: matching.Pair, name: str) -> float:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    ltol, stol, angle_tol = TOLERANCES[name]
    judge = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)
    first, second = (Structure(cell, numbers.tolist(), coords) for numbers, coords, cell in pair)
    found = judge.get_rms_dist(first, second)
    return np.nan if found is None else found[0]


@pytest.mark.parametrize("name", ["cdvae", "pymatgen", "lemat"])
def test_equals_pymatgen(name: matching.MatcherName) -> None:
    pairs = _noisy_pairs(40)
    pairs += [(a[0], b[1]) for a, b in zip(pairs[:10], pairs[10:20], strict=True)]
    expected = np.array([_pymatgen(pair, name) for pair in pairs])
    result = match_pairs(pairs, name)
    np.testing.assert_array_equal(result.rmse, expected)
    np.testing.assert_array_equal(result.matched, ~np.isnan(expected))
    assert not result.timed_out.any()
    assert 0 < result.match_rate < 1
    assert result.mean_rmse == pytest.approx(np.nanmean(expected))
    np.testing.assert_array_equal(match_pairs(pairs[:10], name).rmse, expected[:10])  # in process


def test_supercells_and_other_descriptions_match() -> None:
    numbers, coords, lattice = CUBE
    doubled = Crystal(
        np.tile(numbers, 2),
        np.concatenate([coords * [0.5, 1, 1], coords * [0.5, 1, 1] + [0.5, 0, 0]]),
        np.diag([8.0, 4.0, 4.0]),
    )
    swapped = Crystal(numbers[::-1].copy(), coords[::-1] + 0.25, lattice)
    result = match_pairs([(doubled, CUBE), (swapped, CUBE)])
    assert result.matched.all()
    assert result.mean_rmse < 1e-6


@pytest.mark.parametrize("copies", [1, 6])  # in process, and by workers
def test_garbage_is_no_match_with_a_reason(copies: int) -> None:
    numbers, coords, lattice = CUBE
    bad = [
        Crystal(numbers, coords, np.full((3, 3), np.nan)),
        Crystal(numbers, coords + np.inf, lattice),
        Crystal(numbers, coords, np.zeros((3, 3))),
        Crystal(numbers[:0], coords[:0], lattice),
        Crystal(np.array([0, 200]), coords, lattice),
        Crystal(numbers, coords[:1], lattice),
    ]
    result = match_pairs([(crystal, CUBE) for crystal in bad] * copies + [(CUBE, CUBE)] * copies)
    assert not result.matched[:-copies].any()
    assert all(result.reasons[:-copies])
    assert result.matched[-copies:].all()
    assert result.reasons[-1] is None
    empty = match_pairs([])
    assert np.isnan(empty.match_rate)
    assert np.isnan(empty.mean_rmse)


@pytest.mark.parametrize("others", [2, 20])  # in process, and by workers
def test_time_limit_per_pair(others: int) -> None:
    pairs = [_slow_pair(), *[(CUBE, CUBE)] * others]
    result = match_pairs(pairs, seconds_per_pair=0.5)
    assert result.timed_out.tolist() == [True] + [False] * others
    assert result.matched.tolist() == [False] + [True] * others
    assert result.reasons[0] == "no answer within 0.5 s"


def test_an_alarm_of_the_caller_survives() -> None:
    rang = []
    alarms = ((signal.SIGALRM, signal.ITIMER_REAL), (signal.SIGPROF, signal.ITIMER_PROF))
    for sign, timer in alarms:
        before = signal.signal(sign, lambda *_: rang.append(True))
        try:
            signal.setitimer(timer, 60)
            match_pairs([_slow_pair()], seconds_per_pair=0.2)
            assert 0 < signal.getitimer(timer)[0] <= 59.9
            assert not rang
            signal.setitimer(timer, 0.001)
            end = time.process_time() + 0.5
            while not rang and time.process_time() < end:
                pass
            assert rang.pop()
        finally:
            signal.setitimer(timer, 0)
            signal.signal(sign, before)


def test_a_killed_worker_costs_one_pair() -> None:
    pairs = _noisy_pairs(7)
    job = matching.MatchPairs([*pairs[:3], (NEEDLE, NEEDLE), *pairs[3:]], TOLERANCES["cdvae"], 60)
    worker = Worker("pool_helpers:deadly_matcher")
    try:
        found = worker.answer(job, rescue(job))
    finally:
        worker.close(wait=True)
    assert found.pop(3) == matching.Answer(None, False, "the matching process died on this pair")
    assert [answer.reason for answer in found] == [None] * 7
    expected = match_pairs(pairs).rmse
    np.testing.assert_array_equal([np.nan if a.rmse is None else a.rmse for a in found], expected)


def test_processes_that_all_die_are_an_error_and_no_rate_of_zero(monkeypatch) -> None:
    monkeypatch.setattr("chemeleon.workers._COMMAND", "raise SystemExit(3)")
    monkeypatch.setattr("chemeleon.workers._idle", [])
    with pytest.raises(ChemeleonError, match=r"no pair .* exit status 3 .*see whether .* works"):
        match_pairs([(NEEDLE, NEEDLE)] * 2, jobs=1)


@pytest.mark.parametrize("count", [1, 2])
def test_pairs_that_all_kill_are_reasons_where_others_would_be_matched(count, monkeypatch) -> None:
    deadly = "import pool_helpers; from chemeleon.evaluation import work;"
    deadly += "work.run = pool_helpers.deadly_matcher;"
    monkeypatch.setattr("chemeleon.workers._COMMAND", deadly + pool._COMMAND)
    monkeypatch.setattr("chemeleon.workers._idle", [])
    result = match_pairs([(NEEDLE, NEEDLE)] * count, jobs=1)
    assert result.reasons == ["the matching process died on this pair"] * count
    assert not result.matched.any()


def test_many_pairs_are_never_matched_in_this_process(monkeypatch) -> None:
    here, run = [], matching.MatchPairs.run
    monkeypatch.setattr(matching.MatchPairs, "run", lambda job: here.append(job) or run(job))
    assert match_pairs([(CUBE, CUBE)] * 17, jobs=1).matched.all()
    assert not here
    assert match_pairs([(CUBE, CUBE)] * 16, jobs=1).matched.all()
    assert len(here) == 2


def test_one_process_answers_many_pairs_again_and_again(monkeypatch) -> None:
    started, start = [], pool._start
    monkeypatch.setattr(pool, "_idle", [])
    monkeypatch.setattr(pool, "_start", lambda: started.append(True) or start())
    for _ in range(3):
        assert match_pairs([(CUBE, CUBE)] * 17, jobs=1).matched.all()
    assert len(started) == 1
    pool._end_idle()


@pytest.mark.parametrize("others", [1, 20])  # few pairs go to a worker for an extreme cell
def test_a_worker_stuck_in_compiled_code_is_killed(others: int) -> None:
    pairs = [(NEEDLE, NEEDLE), *[(CUBE, CUBE)] * others]
    # a second more and a fast machine comes out of the compiled code before it is killed
    result = match_pairs(pairs, jobs=1, seconds_per_pair=0.2)
    assert result.timed_out.tolist() == [True] + [False] * others
    assert result.matched.tolist() == [False] + [True] * others
    assert result.reasons[0] == "stuck for more than 0.2 s, killed"


def test_script_without_main_guard_and_with_torch(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, torch\n"
        "torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "from chemeleon.evaluation.matching.pairs import match_pairs\n"
        "from chemeleon.crystals.batch import Crystal\n"
        "cube = Crystal(np.array([11, 17]), np.array([[0., 0, 0], [.5, .5, .5]]), 4 * np.eye(3))\n"
        "print('rate', match_pairs([(cube, cube)] * 40, jobs=2).match_rate)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "rate 1.0\n", done.stderr


def test_module_is_free_of_torch() -> None:
    code = "import sys, chemeleon.evaluation.matching.pairs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unknown_matcher() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cdvae'"):
        match_pairs([], "cdave")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seconds_per_pair=0"):
        match_pairs([], seconds_per_pair=0)
