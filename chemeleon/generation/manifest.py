"""What a sample is and how it came about, as files say it.

Nothing here imports torch at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from chemeleon.version import __version__

if TYPE_CHECKING:
    from chemeleon.config.launched import Share
    from chemeleon.generation.finishing import Finisher, Sampled
    from chemeleon.generation.formulas import Candidates
    from chemeleon.generation.redraw import Drawn
    from chemeleon.generation.settings import SampleSettings


class Plan(NamedTuple):
    """What is to be made, by what.

    Attributes:
        settings: as given.
        model: name of the model.
        stream: makes the crystals of this process, in batches.
        on_orbits: whether they are symmetric by construction.
        about: what a manifest says of how they are made.
        candidates: of formulas, or of the atoms of a data set; None where sizes are drawn.
        names: of the crystals, as in files.
        finisher: what is done to crystals that were made.
        share: this process's part.
    """

    settings: SampleSettings
    model: str
    stream: Callable[[], Generator[Drawn]]
    on_orbits: bool
    about: dict[str, Any]
    candidates: Candidates | None
    names: list[str]
    finisher: Finisher
    share: Share


def manifest(plan: Plan, made: Sequence[Sampled]) -> dict[str, Any]:
    """Return what the crystals are and how they came about."""
    settings, candidates, scorer = plan.settings, plan.candidates, plan.finisher.scorer
    order, ranked = [one.number for one in made], {}
    if candidates is not None:
        ranked = candidates.to_manifest(made, scorer and scorer.name)
    about = dict(plan.about)
    if conditions := about.get("conditions"):
        about["conditions"] = _in_order(conditions, order)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": plan.model,
        **about,
        "requested": len(made),
        "written": sum(one.structure is not None for one in made),
        "valid": sum(one.problem is None for one in made),
        "invalid": [
            {"id": name, "reason": one.problem, "written": one.structure is not None}
            for name, one in zip(plan.names, made, strict=True)
            if one.problem is not None
        ],
        **_redrawn(made, about),
        **ranked,
        **plan.finisher.to_manifest(made, plan.names),
        **({} if settings.cell is None else {"cell": settings.cell}),
        "formats": list(settings.formats),
        "versions": {
            "chemeleon": __version__,
            **{name: version(name) for name in ("torch", "diffusers", "accelerate", "pymatgen")},
        },
    }


def _redrawn(made: Sequence[Sampled], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many crystals were drawn again, and what it did not help."""
    from chemeleon.crystals.soundness import MIN_CONTACT

    if not about.get("sampler", {}).get("redraw"):
        return {}
    found = {
        "least_distance_over_radii": MIN_CONTACT,
        "redrawn": sum(one.redraws > 0 for one in made),
        "redraws": sum(one.redraws for one in made),
        "still_close": sum(one.close for one in made),
        "still_invalid": sum(one.invalid for one in made),
    }
    if "new_to" in about:
        found["still_known"] = sum(one.known for one in made)
    return {"redraw": found}


def _in_order(conditions: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """Return conditions with listed values in the order that their crystals were put in."""
    return {
        name: [value[i] for i in order] if isinstance(value, list) else value
        for name, value in conditions.items()
    }
