"""Whether the elements of a crystal can be had: concentration of supply, and what rules one out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemeleon.evaluation.collection import Collection
from chemeleon.evaluation.metrics.base import Column, Figure, Metric, Options, View

# why an element makes a candidate impractical; an element has the first reason that names it
REASONS = {
    # no stable isotope; bismuth, of 2e19 years, counts as stable
    "radioactive": "Tc Pm Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
    # gases whose few compounds are strong oxidisers or exist under pressure only
    "noble gas": "He Ne Ar Kr Xe",
    # class 1 of ICH Q3D (As, Cd, Hg, Pb); beryllium, carcinogenic (IARC group 1); thallium
    "toxic": "As Cd Hg Pb Be Tl",
    # at most 0.005 mg/kg of the Earth's crust (CRC Handbook of Chemistry and Physics)
    "scarce": "Ru Rh Te Re Os Ir Pt Au",
}
_RULED_OUT = ("radioactive", "noble gas")
_WHY = {symbol: why for why, symbols in REASONS.items() for symbol in symbols.split()}


class Supply(Metric):
    """Herfindahl-Hirschman index of production and of reserves, by weight; impractical elements.

    The index is the sum of squared percentages of the countries that produce an element or hold its
    reserves: below 1,500 is a market of many, above 2,500 one of few. Source: Gaultois et al.,
    Chem. Mater. 25, 2911 (2013), whose table pymatgen has; NaN for elements that are not in it.
    """

    name = group = "supply"
    basis = "Herfindahl-Hirschman indices of Gaultois et al. (2013), from 0 to 10,000, by weight."
    needs = ("hhi_production",)
    as_given = True
    shown = (
        Column("hhi_production", "HHI of production"),
        Column("hhi_reserves", "HHI of reserves"),
        Column("impractical", "Impractical elements", kind="text"),
    )

    def columns(self, crystals: Collection, options: Options) -> Mapping[str, Any]:
        found = [_supply(formula) for formula in crystals.words("reduced_formula")]
        production, reserves, why = zip(*found, strict=True) if found else ((), (), ())
        return {"hhi_production": production, "hhi_reserves": reserves, "impractical": why}

    def figures(self, crystals: View, options: Options) -> Iterator[Figure]:
        for name in ("production", "reserves"):
            values = crystals.numbers(f"hhi_{name}")
            mean = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
            yield Figure(f"mean_hhi_{name}", f"Mean HHI of {name}", value=mean)
        why = crystals.words("impractical")
        for name, label, reasons in (
            ("impractical", "Holds a radioactive element or noble gas", _RULED_OUT),
            ("toxic", "Holds a toxic element", ("toxic",)),
            ("scarce", "Holds an extremely scarce element", ("scarce",)),
        ):
            flag = np.array([any(f"({r})" in word for r in reasons) for word in why], dtype=bool)
            yield Figure(name, label, flag=flag)


@functools.lru_cache(maxsize=100_000)
def _supply(formula: str | None) -> tuple[float, float, str | None]:
    """Return both indices and the impractical elements of a reduced formula, with why."""
    if not formula:
        return np.nan, np.nan, None
    from pymatgen.analysis.hhi import HHIModel
    from pymatgen.core import Composition

    composition = Composition(formula)
    production, reserves = HHIModel().get_hhi(composition)
    symbols = sorted(element.symbol for element in composition)
    named = ", ".join(f"{symbol} ({_WHY[symbol]})" for symbol in symbols if symbol in _WHY)
    if production is None or reserves is None:
        return np.nan, np.nan, named or None
    return float(production), float(reserves), named or None
