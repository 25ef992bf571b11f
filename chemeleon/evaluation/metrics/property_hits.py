"""Whether crystals have the properties that were wanted, by a predictor of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.data.crystal import structure_of
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View


class PropertyHits(Metric):
    """Share of crystals whose predicted property lies within an interval, bounds included, and the
    mean absolute error to its centre; of a single wanted value, the error alone.

    A crystal without a prediction is no hit; the error is of those that have one.
    """

    name = group = "property"
    basis = "Predicted, not computed."

    def known(self, names: Iterable[str]) -> Iterator[Column]:
        for name in names:
            if name.startswith("predicted_"):
                label = name.removeprefix("predicted_").replace("_", " ")
                yield Column(name, f"Predicted {label}", digits=3, shown=True)

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        wanted, predict = options.settings.wanted, options.settings.predict
        if predict is None:
            return {}
        rows = np.flatnonzero(crystals.crystals.num_atoms)
        answers = predict([structure_of(crystal) for crystal in crystals.crystals.subset(rows)])
        found = {f"predicted_{name}": np.full(len(crystals), np.nan) for name in wanted}
        for row, answer in zip(rows.tolist(), answers, strict=True):
            if answer is not None:
                for name in wanted:
                    found[f"predicted_{name}"][row] = answer[name]
        return found

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for name, (low, high, unit) in options.settings.wanted.items():
            if f"predicted_{name}" not in crystals:
                continue
            values, end = crystals.numbers(f"predicted_{name}"), f" {unit}" if unit else ""
            if high > low:
                with np.errstate(invalid="ignore"):
                    hit = (values >= low) & (values <= high)
                label = f"Predicted {name} within {low:g} to {high:g}{end}"
                yield Figure(f"hit_{name}", label, flag=hit)
            known = values[np.isfinite(values)]
            error = float(np.abs(known - (low + high) / 2).mean()) if len(known) else math.nan
            label = f"Mean absolute error of {name} to {(low + high) / 2:g}{end}"
            yield Figure(f"mae_{name}", label, value=error, unit=unit)
