"""Write a model folder from another model: a Lightning checkpoint, a folder, adapters."""

from __future__ import annotations

from pathlib import Path

from chemeleon.checkpoints.chemeleon2.lightning import Weights
from chemeleon.checkpoints.chemeleon2.lightning import convert as import_file
from chemeleon.checkpoints.load import Fits, anything, find_model, read_model, with_base
from chemeleon.checkpoints.store import Dtype, write_model
from chemeleon.config.hubname import is_name
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_PARTS, at_home, hold


def convert(
    file: str | Path,
    output: str | Path,
    *,
    weights: Weights = "raw",
    vae: str | Path | None = None,
    dtype: Dtype = "fp32",
    overwrite: bool = False,
    fits: Fits = anything,
) -> Path:
    """Import a Lightning checkpoint into a model folder, or write a model folder anew.

    Nothing in a checkpoint is executed. Adapters are merged with their base.

    Args:
        file: the checkpoint; or a run or model folder, ``hub:NAME`` or ``shipped:NAME``.
        output: folder to make.
        weights: as trained, or their running average where the file holds it.
        vae: VAE of an LDM or predictor that does not hold its own: a folder or ``hub:NAME``.
        dtype: of the weights in ``output``; bf16 halves it. Statistics are float32 in any case.
        overwrite: replace a model in ``output``.
        fits: see ``load.read_model``; a folder is written anew only if it does.

    Raises:
        CheckpointError: if the file cannot be imported.
        ConfigError: if there is a model in ``output`` already.
    """
    path = Path(file)
    if not (is_name(str(file)) or path.exists()):
        raise CheckpointError(
            f"{file} does not exist: name a Lightning checkpoint (.ckpt), or a run or model folder"
        )
    output = at_home(output)
    with hold(output, MODEL_PARTS, overwrite=overwrite):
        if path.is_file():
            if vae is not None and is_name(str(vae)):
                vae = find_model(vae, ("vae",))
            return import_file(file, output, weights=weights, vae=vae, dtype=dtype)
        if weights != "raw" or vae is not None:
            raise CheckpointError(
                f"{file} is no Lightning checkpoint: leave out --weights and --vae"
            )
        folder = read_model(file, ("vae", "ldm", "predictor", "assignment"), fits=fits)
        fits(folder)
        write_model(output, folder.kind, folder.content, folder.tensors, dtype)
    return output


def merge(
    model: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    overwrite: bool = False,
    fits: Fits = anything,
) -> Path:
    """Write the whole model of a run with adapters; the arguments are those of `ldm merge`.

    Args:
        model: run or model folder.
        output: model folder to be written.
        base: the model that is adapted, if it has moved.
        overwrite: replace an earlier model there.
        fits: see ``read_model``.

    Returns:
        The folder.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    folder = read_model(model, ("ldm",), whole=False)
    if folder.config.get("adapter") is None:
        raise CheckpointError(f"{folder.path} is a whole model: it has no adapters to merge")
    path = Path(output)
    with hold(path, MODEL_PARTS, overwrite=overwrite):
        whole = with_base(folder, base, fits=fits)
        fits(whole)
        write_model(path, whole.kind, whole.content, whole.tensors)
    return path
