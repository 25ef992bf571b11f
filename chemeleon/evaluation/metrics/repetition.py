"""What fine-tuning towards a reward tends to spoil: variety of formulas, copies, elements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chemeleon.evaluation.metrics.base import Metric, Options, View
from chemeleon.evaluation.metrics.description import element_counts
from chemeleon.evaluation.metrics.statistics import share
from chemeleon.evaluation.reference import novel_column


class Repetition(Metric):
    """The most frequent formulas and the share of the ten most frequent; copies of the training
    set, which is the first reference; elements beside those of the base model's crystals."""

    name = "repetition"

    def facts(
        self, crystals: View, control: View | None, options: Options, headline: Any
    ) -> Mapping[str, Any]:
        formulas = crystals.words("reduced_formula")
        top, ten = _top_ten(formulas)
        readable = crystals.table["status"].to_numpy() == "ok"
        found: dict[str, Any] = {
            "top_formulas": [{"formula": name, "count": count} for name, count in top],
            "top_ten": ten,
        }
        if options.references:
            known = readable & ~crystals.flags(novel_column(options.references[0].name))
            found["replay"] = share(int(known.sum()), len(known))
        if (base := options.base) is not None:
            ours, theirs = element_counts(crystals.crystals), element_counts(base)
            found["elements"] = {"sample": ours, "base": theirs}
            read = int(np.sum(base.crystals.num_atoms > 0))
            found["crystals"] = {"sample": int(readable.sum()), "base": read}
            found["base_top_ten"] = _top_ten(base.words("reduced_formula"))[1]
        return {"repetition": found}


def _top_ten(formulas: Sequence[str | None]) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return the ten most frequent formulas, and their share of all crystals."""
    top = Counter(filter(None, formulas)).most_common(10)
    return top, share(sum(count for _, count in top), len(formulas))
