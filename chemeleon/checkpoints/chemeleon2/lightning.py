"""Import a published Chemeleon2 checkpoint (Lightning) as a model folder of ours.

The file is read as data (see ``archive``), its tensors are renamed by the tables in ``layouts``,
and what the published models do differently becomes explicit fields of the config: raw coordinates,
one latent scale, the interleaved token layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor

from chemeleon.checkpoints.chemeleon2.layouts import (
    MP_20_SIZES,
    denoiser_layout,
    predictor_layout,
    vae_layout,
)
from chemeleon.checkpoints.chemeleon2.screen import Refused
from chemeleon.checkpoints.chemeleon2.sizes import (
    ldm_config,
    predictor_config,
    predictor_targets,
    vae_config,
)
from chemeleon.checkpoints.chemeleon2.weights import Source, open_source
from chemeleon.checkpoints.opened import shorten
from chemeleon.checkpoints.store import Dtype, read_folder, write_model
from chemeleon.config.architecture import VAEConfig
from chemeleon.config.bounds import Section
from chemeleon.config.modelfile import ImportedConfig, in_one_line
from chemeleon.config.requests import check_word
from chemeleon.errors import CheckpointError, printable
from chemeleon.storage import at_home

Weights = Literal["raw", "ema"]
Sections = dict[str, Section]
Tensors = dict[str, Tensor]


def convert(
    path: str | Path,
    output_folder: str | Path,
    *,
    weights: Weights = "raw",
    vae: str | Path | None = None,
    dtype: Dtype = "fp32",
) -> Path:
    """Write a published checkpoint as a model folder; nothing in the file is executed.

    Args:
        path: a Lightning ``.ckpt`` of a VAE, a latent diffusion model (also one tuned with
            reinforcement learning) or a predictor.
        output_folder: where ``config.yaml`` and ``model.safetensors`` go.
        weights: the raw weights (what Chemeleon2 itself samples with), or their moving averages.
        vae: for a latent diffusion model: the folder or ``.ckpt`` of its VAE. Needed if the
            file holds no VAE, or one of a width whose number of heads is not known.
        dtype: of the weights in the folder.

    Returns:
        The folder.

    Raises:
        ConfigError: if ``weights`` or ``dtype`` is another word.
        CheckpointError: if the file is not such a checkpoint, is damaged, or is incomplete.
    """
    check_word("weights", weights, get_args(Weights))
    check_word("dtype", dtype, get_args(Dtype))
    file = at_home(path)
    with _about(file):
        source = open_source(file, weights)
        sections, tensors = _import(source, vae)
        sections["imported"] = ImportedConfig(
            file=file.name,
            weights=weights,
            lora_merged=source.merged,
            lora_inert=source.inert,
            assumed=source.assumed,
        )
    config = {name: section.model_dump(mode="json") for name, section in sections.items()}
    output = at_home(output_folder)
    published = {"data": {"name": "published", "niggli": True}}
    write_model(output, source.kind, {**config, **published}, tensors, dtype)
    return output


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Say of a file why it is refused, in words that may be printed."""
    try:
        yield
    except Refused as refused:
        raise CheckpointError(printable(f"{path} {refused}")) from None
    except ValidationError as error:
        raise CheckpointError(
            printable(f"{path} has sizes that make no model: {error.title}, {in_one_line(error)}.")
            + " It is damaged or of a version that is not known here"
        ) from None


def _import(source: Source, vae: str | Path | None) -> tuple[Sections, Tensors]:
    names = source.tensors
    sections: Sections
    if source.kind == "ldm":
        sections, tensors = _import_ldm(source, vae)
    elif source.kind == "predictor":
        sections, tensors = _import_predictor(source)
    elif source.kind == "vae":
        config, tensors = _read_vae(source, "", source.hyper)
        sections = {"vae": config}
    else:
        raise Refused(
            "holds neither a VAE, nor a latent diffusion model, nor a predictor; its"
            f" {len(names)} tensors begin with: {shorten(sorted(names)) or 'none'}"
        )
    extra = sorted(set(names) - source.used - {"latent_std"})
    if extra:
        raise Refused(
            f"has {len(extra)} tensors that a published {source.kind} does not have:"
            f" {shorten(extra)}. It is of a version that is not known here"
        )
    return sections, tensors


def _read_vae(
    source: Source, prefix: str, settings: Any = None, heads: int | None = None
) -> tuple[VAEConfig, Tensors]:
    config = vae_config(source, prefix, settings, heads)
    return config, source.take(vae_layout(config), prefix)


def _import_ldm(source: Source, vae: str | Path | None) -> tuple[Sections, Tensors]:
    given = None if vae is None else _given_vae(vae)
    if "vae.encoder.atom_type_embedder.weight" in source.tensors:
        # the weights in the file are those it was trained with; of `vae` only the heads are used
        heads = None if given is None else given[0].heads
        config, tensors = _read_vae(source, "vae.", heads=heads)
        if given is not None:
            _check_same(config, given[0], vae)
    elif given is not None:
        config, tensors = given
    else:
        raise Refused(
            "holds a latent diffusion model without its VAE: give the VAE it was trained with:"
            " --vae FOLDER or --vae FILE.ckpt (in Python vae=...)"
        )
    ldm, statistics = ldm_config(source, config.latent_dim)
    tensors = {f"vae.{name}": value for name, value in tensors.items()}
    tensors |= source.take(denoiser_layout(ldm, config.latent_dim))
    for name, (mean, std) in statistics.items():
        tensors[f"denoiser.conditions.encoders.{name}.mean"] = torch.tensor(mean)
        tensors[f"denoiser.conditions.encoders.{name}.std"] = torch.tensor(std)
    tensors["latent_mean"] = torch.zeros(config.latent_dim)
    tensors["latent_std"] = torch.full((config.latent_dim,), _latent_std(source))
    tensors["size_histogram"] = torch.tensor(MP_20_SIZES, dtype=torch.float32)
    source.assumed.append("size_histogram: numbers of atoms as in MP-20")
    return {"vae": config, "ldm": ldm}, tensors


def _check_same(inside: VAEConfig, given: VAEConfig, name: object) -> None:
    """Refuse a VAE that cannot be the one in the file: its heads would be the wrong ones."""
    sizes = ("kind", "width", "latent_dim", "feedforward", "encoder_layers", "decoder_layers")
    for size in sizes:
        ours, theirs = getattr(inside, size), getattr(given, size)
        if ours != theirs:
            raise Refused(
                f"was trained with another VAE than {name}, whose {size} is {theirs}, that of the"
                f" one inside is {ours}. Give the VAE it was trained with"
            )


def _latent_std(source: Source) -> float:
    if source.setting("normalize_latent") is False:
        return 1.0
    if source.shapes.get("latent_std") not in ((), (1,)):
        raise Refused(
            "has no number `latent_std`, without which latents have no scale: it is damaged or of a"
            " version that is not known here"
        )
    value = float(source.read("latent_std"))
    if value <= 0:
        raise Refused(
            f"has {value:g} as latent_std, it must be positive: the file is damaged; fetch it again"
        )
    return value


def _given_vae(reference: str | Path) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Read the VAE that the user gave, a folder or a published file."""
    if Path(reference).suffix == ".ckpt":
        file = at_home(reference)
        with _about(file):
            source = open_source(file, "raw")
            if source.kind != "vae":
                raise Refused(
                    "is no VAE, as --vae must be: give the .ckpt file or the folder of the VAE that"
                    " the model was trained with"
                )
            return _read_vae(source, "", source.hyper)
    folder = read_folder(reference, ("vae",))
    return VAEConfig.model_validate(folder.config["vae"]), folder.tensors


def _import_predictor(source: Source) -> tuple[Sections, Tensors]:
    config, vae = _read_vae(source, "vae.", source.setting("vae"))
    targets = predictor_targets(source)
    predictor = predictor_config(source, list(targets))
    tensors = {f"vae.{name}": value for name, value in vae.items()}
    tensors |= source.take(predictor_layout(predictor, config))
    mean, std = zip(*targets.values(), strict=True)
    tensors |= {"target_mean": torch.tensor(mean), "target_std": torch.tensor(std)}
    return {"vae": config, "predictor": predictor}, tensors
