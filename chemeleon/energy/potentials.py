"""A potential by its name in words: CHGNet, SevenNet, torch-sim's, any ASE calculator."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from chemeleon.energy.ase_potential import ASEPotential
from chemeleon.energy.chgnet_potential import CHGNetPotential
from chemeleon.energy.potential import NoPotential, Potential
from chemeleon.energy.scales import OWN, RAW, RAW_MACE, stated_scale
from chemeleon.energy.sevennet_potential import SevenNetPotential
from chemeleon.energy.torchsim_potential import available, load_torchsim
from chemeleon.errors import ConfigError, nearest
from chemeleon.models.pretrained import find_device

NAMES = ("chgnet", "sevennet", "mace", "orb", "mattersim", "fairchem", "nequip", "none")


def load_potential(name: str, device: str | torch.device | None = None) -> Potential:
    """Make a potential by its name.

    Args:
        name: ``chgnet`` or ``chgnet:VERSION`` (0.3.0, 0.2.0, r2scan), ``sevennet`` or
            ``sevennet:VERSION`` (l3i5, 0, mf-0), ``mace``, ``orb``, ``mattersim``,
            ``fairchem`` or any of them with ``:MODEL``, ``nequip:PATH``, ``none``, or
            ``package.module:thing`` where thing is a `Potential`, an ASE calculator, or a function
            or class that makes one when called without arguments. A calculator may state the scale
            of its energies by an attribute ``energy_scale``.
        device: where to compute; CUDA if there is any by default.

    Raises:
        ConfigError: for an unknown name, or with what to install.
        GenerationError: if the device cannot be used.
    """
    place = find_device(device)
    head, _, tail = name.partition(":")
    if head == "none" and not tail:
        return NoPotential()
    if head == "chgnet":
        return CHGNetPotential(tail or "0.3.0", place)
    if head == "sevennet":
        return SevenNetPotential(tail or "l3i5", place)
    if head in ("mace", "orb", "mattersim", "fairchem", "nequip"):
        if head != "mace" or available():
            return load_torchsim(head, tail, place)
        return _load_mace(tail or "small", place)
    if not tail:
        raise ConfigError(
            f"unknown potential '{name}'{nearest(name, NAMES)}; known: {', '.join(NAMES)}, or"
            " package.module:thing for a Potential or an ASE calculator"
        )
    return _load_by_path(name, head, tail, place)


def _load_mace(model: str, device: torch.device) -> Potential:
    if importlib.util.find_spec("mace") is None:
        raise ConfigError(
            "the potential 'mace' needs a package that is not installed: pip install mace-torch"
        )
    calculators = importlib.import_module("mace.calculators")
    version = importlib.import_module("importlib.metadata").version("mace-torch")
    calculator = calculators.mace_mp(model=model, device=device.type, default_dtype="float64")
    scale = RAW if model in RAW_MACE else OWN
    return ASEPotential(calculator, "mace", f"{model}, mace-torch {version}", device, scale)


def _load_by_path(name: str, module_name: str, attribute: str, device: torch.device) -> Potential:
    thing: Any = None
    try:
        thing = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"potential '{name}': {type(error).__name__}: {error}; the module must be installed or"
            " lie on PYTHONPATH"
        ) from error
    try:
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except AttributeError:
        known = [word for word in dir(thing) if not word.startswith("_")]
        raise ConfigError(
            f"potential '{name}': {module_name} has no '{attribute}'{nearest(attribute, known)}"
        ) from None
    if isinstance(thing, type) or not (isinstance(thing, Potential) or _calculates(thing)):
        try:
            thing = thing()
        except Exception as error:
            raise ConfigError(
                f"potential '{name}': calling it without arguments failed: {error}"
            ) from error
    if isinstance(thing, Potential):
        thing.energy_scale = stated_scale(thing, name)
        return thing
    if _calculates(thing):
        package = importlib.import_module(module_name.partition(".")[0])
        return ASEPotential(thing, name, str(getattr(package, "__version__", "unknown")), device)
    raise ConfigError(
        f"potential '{name}' is a {type(thing).__name__}; a Potential, an ASE calculator, or a"
        " function that makes one is needed"
    )


def _calculates(thing: Any) -> bool:
    return hasattr(thing, "get_property") and hasattr(thing, "calculate")
