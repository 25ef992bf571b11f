"""Which of the usable crystals of a source an experiment takes, and how many each wish leaves out.

What is left out here has no fault: it is not wanted (``data.where``, ``data.max_atoms``), or has no
number for a wanted target. Bad rows are another matter, see `problems`.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from chemeleon.config.schema import DataConfig
from chemeleon.config.where import one_line
from chemeleon.crystals.batch import Crystals
from chemeleon.data.cache import ParsedSet
from chemeleon.data.labels import Labels
from chemeleon.data.problems import Problem
from chemeleon.data.where import Rows, judge
from chemeleon.errors import DataError

Partial = bool | Literal["any"]
_MOST_ATOMS = 2**31 - 1  # that sizes are told apart from
UNFIT = "do not fit"  # the expression is false


@dataclass(frozen=True)
class LoadReport:
    """One split as it was found.

    Attributes:
        crystals: usable crystals with the targets of the config.
        problems: rows that cannot be used, with the reason.
        total: rows read.
        source: file or folder.
        columns: every numeric column, ``(M,)`` float32 with NaN where missing.
        labels: every column of short texts.
        left_out: why usable crystals are not among these, and how many: see `selection`.
        notes: what is to be said of the source beside its problems.
    """

    crystals: Crystals
    problems: list[Problem]
    total: int
    source: str
    columns: dict[str, Tensor] = field(repr=False)
    labels: dict[str, Labels] = field(default_factory=dict, repr=False)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def told(self, name: str, where: str | None = None) -> str | None:
        """Return one line of what is not among the crystals; None if nothing is left out."""
        parts = [f"{count:,} {reason}" for reason, count in self.left_out.items()]
        if self.problems:
            parts.append(
                f"{len(self.problems):,} cannot be used, the first is {self.problems[0]}"
                " (`chemeleon data describe` lists them)"
            )
        if not parts:
            return None
        head = f"{name}: {len(self.crystals):,} of {self.total:,} crystals{told(where)}"
        return head if len(parts) == 1 and UNFIT in self.left_out else "; ".join([head, *parts])


def select(
    config: DataConfig, parsed: ParsedSet, source: str, partial: Partial = False
) -> LoadReport:
    """Take the crystals that fit ``where``, ``max_atoms`` and the targets of a config.

    Args:
        config: the wishes.
        parsed: every usable crystal of a source.
        source: named in errors.
        partial: see `dataset.load_split`.

    Raises:
        ConfigError: if the expression does not fit the columns.
        DataError: if it names no column of the source, or nothing is left.
    """
    crystals, labels = parsed.crystals(), parsed.labels
    good = torch.ones(len(crystals), dtype=torch.bool)
    left_out: dict[str, int] = {}
    for reason, keep in _wishes(config, crystals, parsed, source, partial):
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
    columns, notes = crystals.targets, parsed.notes
    asked = replace(crystals, targets={name: columns[name] for name in config.targets})
    problems, total = parsed.problems, parsed.total
    return LoadReport(asked, problems, total, source, columns, labels, left_out, notes)


def told(where: str | None) -> str:
    """Return an expression as it stands behind the name of a set; nothing for None."""
    return f" where {one_line(where)}" if where else ""


def _wishes(
    config: DataConfig,
    crystals: Crystals,
    parsed: ParsedSet,
    source: str,
    partial: Partial,
) -> list[tuple[str, Tensor]]:
    """Return pairs of what is said of those left out, and a flag for each crystal to keep."""
    columns, wishes = crystals.targets, []
    if config.where is not None:
        rows = Rows(
            {name: column.numpy() for name, column in columns.items()},
            parsed.labels,
            [name for name in parsed.text_columns if name not in parsed.labels],
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
