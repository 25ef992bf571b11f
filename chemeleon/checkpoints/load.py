"""From the name of a model to the whole of it: hub, package, run or model folder, and adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from chemeleon.checkpoints import hub, shipped
from chemeleon.checkpoints.adapters import BASE_IN_RUN, base_hash, combine
from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.checkpoints.store import find_folder, read_folder
from chemeleon.config.hubname import hub_name, shipped_name
from chemeleon.config.modelfile import AdapterConfig
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_WEIGHTS

MOST_CHAINED = 8  # adapters of adapters
Fits = Callable[[ModelFolder], object]


def anything(folder: ModelFolder) -> None:
    """Take any weights: for whoever compares them with the network later."""


def find_model(reference: str | Path, kinds: Sequence[str] = ("vae", "ldm")) -> Path:
    """Return the model folder that a run or model folder, or a name, stands for.

    Args:
        reference: folder, ``hub:NAME`` or ``shipped:NAME``.
        kinds: what it may be, for the message.

    Raises:
        CheckpointError: that names what is missing and the command that makes it.
    """
    if hub_name(str(reference)) is not None:
        return hub.resolve(str(reference))
    if shipped_name(str(reference)) is not None:
        return shipped.resolve(str(reference))
    return find_folder(reference, kinds)


def read_model(
    reference: str | Path,
    kinds: Sequence[str] = ("vae", "ldm"),
    *,
    whole: bool = True,
    fits: Fits = anything,
) -> ModelFolder:
    """Open a model folder; see ``find_model`` for what ``reference`` may be.

    Args:
        reference: what to read.
        kinds: what it may be.
        whole: merge adapters with the model that they adapt.
        fits: called with the model that adapters adapt before its numbers are read; refuses weights
            that are not those of the network, as ``models.pretrained.Pretrained.check`` does.

    Raises:
        CheckpointError: if there is none, it is damaged, or of another kind.
    """
    folder = read_folder(find_model(reference, kinds), kinds)
    if whole and folder.config.get("adapter") is not None:
        return with_base(folder, fits=fits)
    return folder


def with_base(
    folder: ModelFolder,
    base: str | Path | None = None,
    *,
    fits: Fits = anything,
    above: tuple[Path, ...] = (),
) -> ModelFolder:
    """Return the whole model of a folder of adapters.

    Args:
        folder: as it is kept, with ``adapter`` in its config.
        base: where the base is; by default in the run's folder, or what the config names.
        fits: see ``read_model``.
        above: folders of adapters whose base this one is.

    Raises:
        CheckpointError: if the base is not there, or is another model, or adapters do not fit it.
    """
    adapter = AdapterConfig.model_validate(folder.config["adapter"])
    if folder.kind != "ldm":
        raise folder.problem(f"a {folder.kind} has no adapters, which 'adapter' says these are")
    chain = (*above, folder.path.resolve())
    if len(chain) > MOST_CHAINED or chain[-1] in above:
        raise CheckpointError(
            f"{folder.path} holds adapters of adapters"
            + (" that lead back to themselves" if chain[-1] in above else f", over {MOST_CHAINED}")
            + ": name the model at their end, as in chemeleon ldm merge DIR --base FOLDER -o OUT"
        )
    elsewhere = f"chemeleon ldm merge {folder.path} --base FOLDER -o DIR"
    inside = folder.path.parent / BASE_IN_RUN
    if base is None:
        base = inside if (inside / MODEL_WEIGHTS).is_file() else adapter.base
    if base is None:
        raise CheckpointError(
            f"{folder.path} holds adapters, and does not say of which model: {elsewhere}"
        )
    try:
        found = read_model(base, (folder.kind,), whole=False)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder.path} holds adapters, and the model that they adapt cannot be read: {error}."
            f" If it is elsewhere: {elsewhere}"
        ) from None
    if found.config.get("adapter") is not None:
        found = with_base(found, fits=fits, above=chain)
    fits(found)
    wanted, hashed = adapter.base_weights, base_hash(found.tensors)
    if hashed != wanted:
        raise CheckpointError(
            f"the adapters in {folder.path} were trained on {adapter.base}, whose weights had"
            f" the hash {wanted}, but those of {found.path} have {hashed}: it is another model, or"
            f" was trained on. If that model is elsewhere: {elsewhere}"
        )
    return combine(folder, found)
