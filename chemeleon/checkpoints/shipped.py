"""Trained models inside the package: ``shipped:NAME``, and which one is used if none is named.

Each is an ordinary model folder in ``chemeleon/shipped``, written by ``scripts/ship_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chemeleon.config.hubname import shipped_name
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.errors import CheckpointError, nearest
from chemeleon.storage import MODEL_CONFIG, MODEL_WEIGHTS

DEFAULT = "de_novo"  # chooses elements itself
DEFAULT_CSP = "csp"  # places the atoms of a formula
# names of an earlier version, which stand in configs and manifests
ALIASES = {"mp_20_open": DEFAULT, "mp_20_open_csp": DEFAULT_CSP}
_KINDS = {"vae": "VAE", "predictor": "predictor", "assignment": "model of assignments"}


class Shipped(NamedTuple):
    """A model of the package.

    Attributes:
        name: as in ``shipped:NAME``.
        what: one line.
        size: of its weights, bytes.
        path: its folder.
    """

    name: str
    what: str
    size: int
    path: Path

    @property
    def remark(self) -> str:
        """What is said when it is used because none was named."""
        return f"no model was named: this is {self.reference}, {self.what}"

    @property
    def reference(self) -> str:
        """What it is called where a model is asked for."""
        return f"shipped:{self.name}"


def root() -> Path:
    """Return the folder of the models inside the package."""
    return Path(__file__).resolve().parents[1] / "shipped"


def list_shipped() -> list[Shipped]:
    """Return the models of this package by name; it may hold none."""
    found = []
    for path in sorted(root().glob(f"*/{MODEL_CONFIG}")):
        folder = path.parent
        if (folder / MODEL_WEIGHTS).is_file():
            size = (folder / MODEL_WEIGHTS).stat().st_size
            found.append(Shipped(folder.name, describe(read_yaml(path)), size, folder))
    return found


def describe(config: Mapping[str, Any]) -> str:
    """Say in a few words what a model is, from its ``config.yaml``."""
    ldm, data = config.get("ldm") or {}, config.get("data") or {}
    kind = _KINDS.get(str(config.get("kind")), "LDM")
    if kind == "LDM" and (ldm.get("denoiser") or {}).get("types"):
        kind = "csp LDM, for given formulas,"
    elif kind == "LDM":
        names = ", ".join(ldm.get("conditions") or {})
        kind = f"LDM with conditions ({names})" if names else "unconditional LDM"
    return f"{kind} trained on {data.get('name', 'unknown data')}"


def resolve(reference: str) -> Path:
    """Return the folder of ``shipped:NAME``.

    Raises:
        CheckpointError: if this package does not hold it, listing what it holds.
    """
    name = shipped_name(reference) or ""
    name = ALIASES.get(name, name)
    known = {model.name: model for model in list_shipped()}
    if name in known:
        return known[name].path
    holds = ", ".join(model.reference for model in known.values()) or "no trained model"
    close = nearest(reference, [model.reference for model in known.values()])
    raise CheckpointError(
        f"'{reference}' is not in this package{close or '.'} It holds {holds}. Name"
        " a run or model folder, or one of the hub (chemeleon hub list)"
    )


def default_model(formula: bool = False) -> Shipped:
    """Return the model that is used where none is named.

    Args:
        formula: atoms are given, so a model of kind csp is needed.

    Raises:
        CheckpointError: if this package does not hold it, saying what to name instead.
    """
    wanted = DEFAULT_CSP if formula else DEFAULT
    for model in list_shipped():
        if model.name == wanted:
            return model
    if formula:
        raise CheckpointError(
            "no model is named, and this package holds none that takes formulas"
            f" (shipped:{wanted}): name one trained with csp presets, for example --model runs/csp"
            " (in Python the first argument); docs/csp.md says how to train it"
        )
    raise CheckpointError(
        f"no model is named, and this package holds none (shipped:{wanted}): name a run or model"
        " folder with --model, for example --model runs/my_ldm (in Python the first argument), or"
        " fetch one: --model hub:alex_mp_20_ldm"
    )
