"""The search for symmetry ends, whatever crystal it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

# what models that have learned little make: moyo 0.21 itself never comes back from them at 0.1 A
ENDLESS = {
    "flat": (
        [45, 13, 39, 8],
        [
            [0.16742604970932007, 0.9428394436836243, 0.22225531935691833],
            [0.00018258891941513866, 0.26112768054008484, 0.4376062750816345],
            [0.1899556815624237, 0.9149109721183777, 0.36437109112739563],
            [0.14655868709087372, 0.8666152954101562, 0.38182100653648376],
        ],
        [
            [0.17736975848674774, 0.0, -0.5859607458114624],
            [0.04041815176606178, -0.04976402223110199, -0.10628551244735718],
            [0.0, 0.0, -1.4778622388839722],
        ],
    ),
    "thin": (
        [3, 3, 2, 2],
        [
            [0.8897230317255308, 0.680239552509695, 0.9133065278936566],
            [0.6089993253916831, 0.5164224769422557, 0.7933956364038247],
            [0.8354120100683348, 0.7423043017785205, 0.036282044896950194],
            [0.2862379326064711, 0.9510755128542477, 0.10628158604123195],
        ],
        [
            [0.08090508679249492, -0.04790984604098378, -0.46141620508403386],
            [0.9001749478024849, 1.0384689906983358, -0.3163053336083463],
            [-5.57897126734346, 1.5874457713653922, 2.1641661432839356],
        ],
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_the_search_ends_where_the_tolerance_is_not_small_beside_the_cell(name: str) -> None:
    # in a process of its own: what hangs there could not be stopped here
    script = "from chemeleon.crystals.symmetry import space_group\n"
    script += f"print(space_group(*{ENDLESS[name]}))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"


def test_a_tolerance_near_the_size_of_a_cell_is_lowered() -> None:
    from chemeleon.crystals.symmetry import space_group

    iron = [[-1.42, 1.42, 1.42], [1.42, -1.42, 1.42], [1.42, 1.42, -1.42]]
    found = space_group([26], [[0, 0, 0]], iron, symprec=0.3)
    assert found is not None
    assert found.symbol == "Im-3m"
