"""A crystal that kills, hangs or breaks a worker costs its own row and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_helpers import KILLS, RAISES, STICKS, Halves

from chemeleon.crystals.batch import Crystal, Crystals
from chemeleon.evaluation.describe import Describe
from chemeleon.evaluation.matching.reduced import Reduce
from chemeleon.evaluation.matching.verdicts import UNDECIDED, YES, MatchJob
from chemeleon.evaluation.report.crystal_view import crystal_views
from chemeleon.evaluation.work import answers, rescue
from chemeleon.workers import Rescue, Worker, run_parallel

RESCUE = Rescue(
    split=lambda items: (
        [items[: len(items) // 2], items[len(items) // 2 :]] if len(items) > 1 else []
    ),
    join=lambda parts: [x for part in parts for x in part],
    give_up=lambda items, reason: [reason] * len(items),
)


def test_one_bad_item_costs_itself_alone() -> None:
    jobs = [list(range(i, i + 3)) for i in range(0, 30, 3)]
    begun = time.perf_counter()
    found = [x for part in run_parallel("pool_helpers:halves", jobs, 2, RESCUE) for x in part]
    assert time.perf_counter() - begun < 60
    good = [i for i in range(30) if i not in (KILLS, STICKS, RAISES)]
    assert [found[i] for i in good] == [2 * i for i in good]
    assert "was killed" in found[KILLS]
    assert "no answer in time" in found[STICKS]
    assert "ValueError: no 23 please" in found[RAISES]


def test_what_is_killed_without_fault_is_tried_again(tmp_path: Path) -> None:
    worker = Worker("pool_helpers:killed_once")
    try:
        assert worker.answer(str(tmp_path / "sign"), RESCUE._replace(split=lambda job: [])) == (
            "answered"
        )
    finally:
        worker.close(wait=True)


def test_without_a_rescue_the_run_stops() -> None:
    with pytest.raises(RuntimeError, match="a worker process died: its process was killed"):
        list(run_parallel("pool_helpers:halves", [[KILLS]], 1))


def test_what_is_not_tame_never_runs_here() -> None:
    found = answers(Halves([], os.getpid()), [1, 2, KILLS], 1)
    assert next(found) == 2
    # and what raises here is asked of a process, which survives it
    assert next(found) == 4
    assert "was killed" in next(found)


def test_why_the_first_of_many_was_given_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = [(None, None), "no pair", "nor this"]  # as a fault of ours would
    assert crystal_views(broken) == [{"raw": None, "relaxed": None}] * 3
    assert "Views gave no answer for a crystal: ValueError: too many values" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("within", [True, False])
def test_a_pair_that_kills_has_no_verdict_and_all_others_have(within: bool) -> None:
    edges = np.array([3.0, 4.0, 3.0 * 1.001, 4.0 * 1.001, 5.0])
    stack = Crystals(
        np.full(5, 29), np.zeros((5, 3)), edges[:, None, None] * np.eye(3), np.ones(5, int)
    )
    stack.lattice[4] *= np.array([1, 1, 2])[:, None]  # another shape
    rows = [(row, range(row + 1 if within else 0, 5)) for row in range(5)]
    job = MatchJob(rows, stack, None if within else stack, (0.2, 0.3, 5.0), 10.0)
    plain = job.run()
    worker = Worker("pool_helpers:deadly_judge")
    try:
        found = worker.answer(job, rescue(job))
    finally:
        worker.close(wait=True)
    assert found[found[:, 2] == UNDECIDED, :2].tolist() == [[0, 1]]
    matches = found[found[:, 2] == YES, :2].tolist()
    joined = {frozenset(pair) for pair in matches}
    if within:
        assert joined >= {frozenset(p) for p in plain[:, :2].tolist()} - {frozenset((0, 1))}
        assert not any(4 in pair for pair in joined)
    else:
        assert {pair[0] for pair in matches} == {0, 1, 2, 3, 4}


def test_chunks_are_cut_and_joined_without_loss() -> None:
    items = [
        ("problem", "gone"),
        *(("arrays", (np.full(n, 29), np.linspace(0, 0.9, 3 * n).reshape(n, 3), 4 * np.eye(3)))
          for n in range(1, 12)),
    ]  # fmt: skip
    job = Describe(items)
    whole = job.run()
    parts = job.split()
    assert len(parts) == 6
    joined = job.join([part.run() for part in parts])
    for one, other in zip(joined, whole, strict=True):
        assert (one.reason, one.texts) == (other.reason, other.texts)
        np.testing.assert_array_equal(one.numbers, other.numbers)
    lost = job.give_up("killed")
    assert [one.reason for one in lost] == ["killed"] * 12
    assert [one.crystal for one in lost] == [None] * 12

    crystals = Crystals.of([one.crystal for one in whole[1:]])
    job = Reduce(list(crystals), 5.0)
    cells = job.run()
    again = job.join([part.run() for part in job.split()])
    for one, other in zip(again, cells, strict=True):
        np.testing.assert_array_equal(one.frac_coords, other.frac_coords)
    assert job.give_up("killed") == ["killed"] * 11


def test_large_crystals_go_to_a_process_of_their_own() -> None:
    large = ("arrays", (np.full(300, 29), np.zeros((300, 3)), np.eye(3)))
    assert not Describe([large]).is_tame
    assert not Describe([("cif", "x" * 50_000)]).is_tame
    assert Describe([("cif", "x" * 500), ("problem", "no")]).is_tame
    assert not Reduce([Crystal(*large[1])], 1.0).is_tame
    assert Reduce([], 1.0).is_tame
