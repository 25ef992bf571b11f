"""Every recorded array of the published models is reproduced, or named with a reason."""

from __future__ import annotations

import pytest
from parity import Golden, Row, difference, rows
from parity_rl import rl_arrays

pytestmark = pytest.mark.timeout(900)
FILES = (
    *("batch", "functions", "vae_dng", "vae_csp", "ldm_null", "ldm_composition"),
    *("conditions", "predictor", "rl_ddim", "features_metrics"),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> list[Row]:
    return rows(tmp_path_factory.mktemp("imported"))


@pytest.mark.parametrize("file", FILES)
def test_arrays_are_reproduced(table, file):
    own = [row for row in table if row.file == file]
    assert own
    wrong = [f"{row.array}: {row.error:.1e} > {row.bound:g}" for row in own if not row.ok]
    assert not wrong


def test_sums_of_the_update_that_are_wrong_by_a_hundredth_are_out_of_bounds(tmp_path):
    """Whatever their magnitude, 1e-5 to 16; that of the ratio at rest is the float32 of nothing."""
    golden, seen = Golden(tmp_path), 0
    for found in rl_arrays(golden):
        if found.array.startswith("perturbed_res_"):
            theirs = golden.get("rl_ddim", found.array)
            wrong = difference(1.01 * theirs, theirs, found.per_step, found.rounding)
            assert wrong > found.bound, found.array
            seen += 1
    assert seen == 7


def test_no_array_is_left_out_silently(table):
    assert not [(row.file, row.array) for row in table if row.error is None and not row.note]
    assert {row.file for row in table} == set(FILES)
