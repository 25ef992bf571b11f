"""Limits of time count what the work itself takes, whatever else the machine is at."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from conftest import demo_crystals

import chemeleon
from chemeleon.crystals.convert import to_structures
from chemeleon.evaluation import describe
from chemeleon.evaluation.matching.limits import TimeUpError, backstop, time_limit
from chemeleon.workers import Rescue, run_parallel

RESCUE = Rescue(
    split=lambda items: [[item] for item in items] if len(items) > 1 else [],
    join=lambda parts: [x for part in parts for x in part],
    give_up=lambda items, reason: [reason] * len(items),
)


def spin(seconds: float) -> None:
    """Take processor time in this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_waiting_is_no_work() -> None:
    with time_limit(0.2):
        time.sleep(0.6)
        spin(0.05)


def test_work_is_stopped_when_its_time_is_up() -> None:
    begun = time.thread_time()
    with pytest.raises(TimeUpError), time_limit(0.2):
        spin(30)
    # 0.2 as a rule; 2 were seen once at the end of many tests, on a machine that had more to do
    assert 0.2 <= time.thread_time() - begun < 10


def test_other_threads_of_the_process_do_not_count() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with time_limit(0.5):  # the process takes some seconds meanwhile
            spin(0.25)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def inner() -> None:
    with time_limit(10):
        spin(0.1)
    spin(10)


def test_limits_within_limits() -> None:
    with time_limit(30):
        with pytest.raises(TimeUpError), time_limit(0.1):
            spin(10)
        spin(0.1)
    with pytest.raises(TimeUpError), time_limit(0.3):
        inner()


def test_a_worker_process_is_patient_with_a_slow_machine_and_not_with_one_that_hangs() -> None:
    waits = [[0.01, 1.5], [3 * backstop(0.3)], [0.01]]
    begun = time.perf_counter()
    found = list(run_parallel("pool_helpers:slow_machine", waits, 1, RESCUE))
    assert found[0] == ["done", "done"]
    assert "no answer in time" in found[1][0]
    assert found[2] == ["done"]
    assert time.perf_counter() - begun < 3 * backstop(0.3)


def test_imports_of_a_reader_are_not_the_time_of_the_first_crystal() -> None:
    # in a fresh process, as a worker is; half a second is less than imports may take
    text = "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
    text += "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P m -3 m'\n"
    text += "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
    text += "_atom_site_fract_y\n_atom_site_fract_z\nNa1 Na 0 0 0\n"
    code = "import sys; from chemeleon.evaluation import describe; describe._SECONDS = 0.5\n"
    code += f"found = describe.Describe([('cif', {text!r})]).run()\n"
    code += "print([one.reason for one in found])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[None]\n", done.stderr


def test_what_readers_need_is_read_before() -> None:
    for kind, content in describe._FIRST:
        assert len(describe.parse_as_given(kind, content).atomic_numbers) > 0


@contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    """Let other processes take the cores."""
    code = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def crystals(seed: int) -> list:
    """Disturbed crystals: some are alike, some compositions take long to compare."""
    rng = np.random.default_rng(seed)
    structures = [s for s in to_structures(demo_crystals("val"))[:40] if len(s) <= 40]
    made = []
    for structure in structures[:4]:
        for _ in range(2):
            copy = structure.copy()
            copy.perturb(0.05 * rng.random())
            made.append(copy)
        made.append(structure.copy().make_supercell([2, 2, 1]))
    return made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_evaluate_gives_the_same_table_beside_six_busy_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    given = crystals(0)

    def table() -> pd.DataFrame:
        # by the clock on the wall, half a second would be over for many beside six others
        report = chemeleon.evaluate(given, references=["demo"], seconds_per_pair=0.5)
        assert not report.crystals["timed_out_pairs"].any()
        return report.crystals

    idle = table()
    with busy_machine(6):
        begun, spent = time.perf_counter(), time.process_time()
        busy = table()
        # the others did take the cores
        assert time.perf_counter() - begun > 1.2 * (time.process_time() - spent)
    pd.testing.assert_frame_equal(idle, busy)
    assert idle["valid_structure"].all()
