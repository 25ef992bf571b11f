"""Which of the usable crystals of a source an experiment takes, and how many each wish leaves out.

What is left out here has no fault: it is not wanted (``data.where``, ``data.max_atoms``), or has no
number for a wanted target. Bad rows are another matter, see `problems`.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chemeleon.config.schema import DataConfig
from chemeleon.config.where import one_line
from chemeleon.crystals.batch import Crystals
from chemeleon.data.labels import Labels
from chemeleon.data.where import Rows, judge
from chemeleon.errors import DataError

Partial = bool | Literal["any"]
_MOST_ATOMS = 2**31 - 1  # that sizes are told apart from
UNFIT = "do not fit"  # the expression is false


class Selection(NamedTuple):
    """The crystals taken, with every column as a target.

    Attributes:
        crystals: in the order of the source.
        labels: the columns of text of these crystals.
        left_out: why others are not among them, and how many; each is counted once.
    """

    crystals: Crystals
    labels: dict[str, Labels]
    left_out: dict[str, int]


def select(
    config: DataConfig,
    crystals: Crystals,
    labels: dict[str, Labels],
    unkept: Sequence[str],
    source: str,
    partial: Partial = False,
) -> Selection:
    """Take the crystals that fit ``where``, ``max_atoms`` and the targets of a config.

    Args:
        config: the wishes.
        crystals: every usable crystal of a source, every column a target.
        labels: its columns of text.
        unkept: its columns of text that are too long to be kept.
        source: named in errors.
        partial: see `dataset.load_split`.

    Raises:
        ConfigError: if the expression does not fit the columns.
        DataError: if it names no column of the source, or nothing is left.
    """
    good = torch.ones(len(crystals), dtype=torch.bool)
    left_out: dict[str, int] = {}
    for reason, keep in _wishes(config, crystals, labels, unkept, source, partial):
        gone = int((good & ~keep).sum())
        if gone:
            left_out[reason] = gone
        good &= keep
    if len(crystals) and not good.any():
        counts = "; ".join(f"{n:,} {reason}" for reason, n in left_out.items())
        asked = f"{len(crystals):,} crystals is left{told(config.where)}"
        raise DataError(f"{source}: none of the {asked}: {counts}")
    if not good.all():
        rows = torch.nonzero(good).flatten()
        crystals = crystals.subset(rows)
        labels = {name: column.take(rows.numpy()) for name, column in labels.items()}
    return Selection(crystals, labels, left_out)


def told(where: str | None) -> str:
    """Return an expression as it stands behind the name of a set; nothing for None."""
    return f" where {one_line(where)}" if where else ""


def _wishes(
    config: DataConfig,
    crystals: Crystals,
    labels: dict[str, Labels],
    unkept: Sequence[str],
    source: str,
    partial: Partial,
) -> list[tuple[str, Tensor]]:
    """Return pairs of what is said of those left out, and a flag for each crystal to keep."""
    columns, wishes = crystals.targets, []
    if config.where is not None:
        rows = Rows(
            {name: column.numpy() for name, column in columns.items()},
            labels,
            unkept,
            crystals.atomic_numbers.numpy(),
            crystals.num_atoms.numpy(),
            crystals.ids,
            config.id_column,
        )
        yes, no = (torch.from_numpy(flags) for flags in judge(config.where, rows, source))
        wishes += [(UNFIT, ~no), ("have no value to tell", yes)]
    if config.max_atoms is not None:
        few = crystals.num_atoms <= min(config.max_atoms, _MOST_ATOMS)
        wishes.append((f"have more atoms than max_atoms={config.max_atoms}", few))
    known = {name: ~columns[name].isnan() for name in config.targets}
    if partial == "any" or not known:
        return wishes
    if partial:
        some = torch.stack(list(known.values())).any(0)
        return [*wishes, (f"have no number in any of the columns {', '.join(known)}", some)]
    return [*wishes, *((f"have no number in column '{name}'", k) for name, k in known.items())]
