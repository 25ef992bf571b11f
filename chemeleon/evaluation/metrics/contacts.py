"""Atoms nearer than they bond: the closest contact in units of covalent radii."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.crystals.soundness import closest_contacts, of_each
from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View

LEAST_RATIO = 0.75  # of 4,500 crystals of MP-20, 0.7 % have a shorter contact


class Contacts(Metric):
    """Smallest distance over the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008),
    as in ``ase.data.covalent_radii``), own periodic images included."""

    name = "contacts"
    group = "validity"
    needs = ("closest_contact",)
    binned = True
    basis = f"Close: below {LEAST_RATIO:g} of the sum of covalent radii (Cordero et al. 2008)."
    shown = (Column("closest_contact", "Closest contact over sum of radii", digits=2),)

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        return {"closest_contact": of_each(closest_contacts, crystals.crystals)}

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        with np.errstate(invalid="ignore"):
            close = crystals.numbers("closest_contact") < LEAST_RATIO
        label = f"A distance below {LEAST_RATIO:g} of covalent radii"
        yield Figure("close_contact", label, flag=close)
