"""A crystal that kills, hangs or breaks a worker costs its own row and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pool_helpers import KILLS, RAISES, STICKS

from chemeleon.crystals.batch import Crystals
from chemeleon.data.pool import Rescue, Worker, run_parallel
from chemeleon.evaluation import describe
from chemeleon.evaluation.collection import parallel
from chemeleon.evaluation.matching import judge, reduced

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
    def local(items: list[int]) -> list[int]:
        raise AssertionError

    found = parallel(
        "pool_helpers:halves", local, [[1], [2]], 1, RESCUE, lambda items: items != [1]
    )
    assert next(found) == [2]
    # and what raises here is asked of a process, which survives it
    assert list(found) == [[4]]


@pytest.mark.parametrize("within", [True, False])
def test_a_pair_that_kills_has_no_verdict_and_all_others_have(within: bool) -> None:
    edges = np.array([3.0, 4.0, 3.0 * 1.001, 4.0 * 1.001, 5.0])
    stack = Crystals(
        np.full(5, 29), np.zeros((5, 3)), edges[:, None, None] * np.eye(3), np.ones(5, int)
    )
    stack.lattice[4] *= np.array([1, 1, 2])[:, None]  # another shape
    job = judge.Job(np.arange(5), stack, None if within else stack, (0.2, 0.3, 5.0), 10.0)
    plain = judge.judge(job)
    worker = Worker("pool_helpers:deadly_judge")
    try:
        found = worker.answer(job, judge.RESCUE)
    finally:
        worker.close(wait=True)
    assert found.undecided.tolist() == [[0, 1]]
    joined = {frozenset(pair) for pair in found.matches.tolist()}
    if within:
        assert joined >= {frozenset(p) for p in plain.matches.tolist()} - {frozenset((0, 1))}
        assert not any(4 in pair for pair in joined)
    else:
        assert {pair[0] for pair in found.matches.tolist()} == {0, 1, 2, 3, 4}


def test_chunks_are_cut_and_joined_without_loss() -> None:
    items = [
        ("problem", "gone"),
        *(("arrays", (np.full(n, 29), np.linspace(0, 0.9, 3 * n).reshape(n, 3), 4 * np.eye(3)))
          for n in range(1, 12)),
    ]  # fmt: skip
    whole = describe.describe_chunk(items)
    parts = [describe.describe_chunk(part) for part in describe.RESCUE.split(items)]
    joined = describe.RESCUE.join(parts)
    assert joined.reasons == whole.reasons
    assert joined.texts == whole.texts
    np.testing.assert_array_equal(joined.numbers, whole.numbers)
    np.testing.assert_array_equal(joined.crystals.num_atoms, whole.crystals.num_atoms)
    lost = describe.RESCUE.give_up(items, "killed")
    assert lost.reasons == ["killed"] * 12
    assert lost.crystals.num_atoms.tolist() == [0] * 12

    job = (whole.crystals.subset(np.arange(1, 12)), 5.0)
    cells, why = reduced.reduce_chunk(job)
    cut = [reduced.reduce_chunk(part) for part in reduced.RESCUE.split(job)]
    again, reasons = reduced.RESCUE.join(cut)
    assert reasons == why
    np.testing.assert_array_equal(again.frac_coords, cells.frac_coords)
    assert reduced.RESCUE.give_up(job, "killed")[1] == ["killed"] * 11


def test_large_crystals_go_to_a_process_of_their_own() -> None:
    large = ("arrays", (np.full(300, 29), np.zeros((300, 3)), np.eye(3)))
    assert not describe.is_tame([large])
    assert not describe.is_tame([("cif", "x" * 50_000)])
    assert describe.is_tame([("cif", "x" * 500), ("problem", "no")])
    assert reduced.is_tame((Crystals.of([]), 1.0))
