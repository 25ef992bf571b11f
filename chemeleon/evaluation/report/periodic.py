"""A heat map on the periodic table: in which share of the crystals each element occurs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from chemeleon.evaluation.report.page import escape


def place(symbol: str) -> tuple[int, int]:
    """Return row (1 to 7; 8 and 9 for the f elements) and column (1 to 18) in the table."""
    from pymatgen.core import Element

    element = Element(symbol)
    if 57 <= element.Z <= 71:
        return 8, element.Z - 57 + 3
    if 89 <= element.Z <= 103:
        return 9, element.Z - 89 + 3
    return element.row, element.group


def periodic_table(values: Mapping[str, float], top: float, other: Mapping[str, float],
                   names: tuple[str, str]) -> str:  # fmt: skip
    """Return the table as HTML; the colour goes with the square root of the share.

    Args:
        values: percent of crystals with each element, shown by colour.
        top: the share with the darkest colour, the same in tables that stand side by side.
        other: shares of the other set, for the note that appears on pointing.
        names: of this set and of the other one.
    """
    from pymatgen.core import Element

    cells = []
    for z in range(1, 104):
        symbol = Element.from_Z(z).symbol
        row, column = place(symbol)
        value = values.get(symbol, 0.0)
        heat = 100 * math.sqrt(min(value / top, 1)) if top > 0 else 0
        kind = "el hot" if heat > 55 else "el" if value > 0 else "el none"
        tip = f"{Element.from_Z(z).long_name}\n{names[0]} {value:.2f} %"
        if other:
            tip += f"\n{names[1]} {other.get(symbol, 0.0):.2f} %"
        cells.append(
            f'<button type="button" class="{kind}" data-element="{symbol}" tabindex="-1" '
            f'title="{escape(tip)}" '
            f'style="grid-area:{row + (row > 7)}/{column};--h:{heat:.0f}%">{symbol}</button>'
        )
    return f'<div class="ptable">{"".join(cells)}</div>'


def scale_bar(top: float) -> str:
    """Return the key of the colours, from 0 to `top` percent."""
    stops = "".join(f'<i style="--h:{heat}%"></i>' for heat in range(0, 101, 10))
    return (
        f'<div class="scale"><span>0 %</span>{stops}<span>{top:.0f} % of crystals '
        f"(square-root scale)</span></div>"
    )
