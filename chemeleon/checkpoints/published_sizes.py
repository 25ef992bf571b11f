"""Work out the configs of a published model from tensor shapes, and from hyper-parameters where
shapes do not tell: attention heads, condition kinds and statistics, diffusion steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemeleon.checkpoints import hyper
from chemeleon.checkpoints.published import CLASSES, DIT_HEADS, VAE_HEADS
from chemeleon.config.architecture import (
    ConditionConfig,
    DenoiserConfig,
    DiffusionConfig,
    LDMConfig,
    PredictorConfig,
    SamplerConfig,
    VAEConfig,
    VAELossConfig,
)
from chemeleon.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
# published weights of the VAE's loss, where a file does not say
_LOSS = {"types": 1.0, "lengths": 1.0, "angles": 10.0, "coords": 10.0, "kl": 1e-5}
_LOSS_NAMES = {"types": "atom_types", "coords": "frac_coords"}


def _matrix(shapes: Shapes, name: str, path: Path) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2 or 0 in shape:
        found = "is missing" if shape is None else f"has shape {shape}"
        raise CheckpointError(
            f"{path}: tensor '{name}' {found}, but the sizes of the model are read from it: the"
            " file is damaged or no published checkpoint; fetch it again"
        )
    return shape[0], shape[1]


def _layers(shapes: Shapes, pattern: str) -> int:
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count


def vae_config(
    shapes: Shapes,
    prefix: str,
    settings: Any,
    assumed: list[str],
    path: Path,
    heads: int | None = None,
) -> VAEConfig:
    """Return the config of a published VAE.

    Args:
        shapes: published name to shape.
        prefix: of the VAE's names.
        settings: hyper-parameters that may hold the pickled encoder, or None.
        assumed: gets a line for what the file does not say.
        path: of the file, for messages.
        heads: attention heads, where they are known.

    Raises:
        CheckpointError: if sizes are missing.
    """
    _, width = _matrix(shapes, f"{prefix}encoder.atom_type_embedder.weight", path)
    _, latent_dim = _matrix(shapes, f"{prefix}post_quant_conv.weight", path)
    layer = prefix + "{}.transformer.layers.{}.linear1.weight"
    hidden, _ = _matrix(shapes, layer.format("encoder", 0), path)
    if heads is None:
        heads = hyper.heads(settings)
    if heads is None and width in VAE_HEADS:
        heads = VAE_HEADS[width]
        assumed.append(f"vae.heads: {heads}")
    if heads is None:
        remedy = (
            "give the VAE it was trained with, whose file says it: --vae FOLDER or --vae FILE.ckpt"
            " (in Python vae=...)"
            if prefix
            else "its hyper-parameters are incomplete; give another checkpoint of the run"
        )
        raise CheckpointError(
            f"{path} does not say how many attention heads its VAE of width {width} has: {remedy}"
        )
    return VAEConfig(
        latent_dim=latent_dim,
        width=width,
        encoder_layers=_layers(shapes, layer.replace("{}", "encoder", 1)),
        decoder_layers=_layers(shapes, layer.replace("{}", "decoder", 1)),
        heads=heads,
        feedforward=hidden,
        kind="dng" if f"{prefix}decoder.atom_types_head.weight" in shapes else "csp",
        coordinate_head="raw",
        coordinate_input="raw",
        wrap_input=False,
        loss=_vae_loss(settings),
    )


def _vae_loss(settings: Any) -> VAELossConfig:
    given = hyper.section(settings.get("loss_weights") if isinstance(settings, dict) else None)
    return VAELossConfig(
        **{ours: given.get(_LOSS_NAMES.get(ours, ours), value) for ours, value in _LOSS.items()}
    )


def ldm_config(
    shapes: Shapes, settings: Any, latent_dim: int, assumed: list[str], path: Path
) -> tuple[LDMConfig, dict[str, tuple[float, float]]]:
    """Return the config of a published latent diffusion model, and statistics of its numbers.

    Raises:
        CheckpointError: if sizes are missing or the model is of a kind that is not supported.
    """
    width, channels = _matrix(shapes, "denoiser.x_embedder.weight", path)
    if channels != latent_dim:
        raise CheckpointError(
            f"{path}: its denoiser takes {channels} latent channels, its VAE gives {latent_dim}:"
            " give the VAE that it was trained with"
        )
    hidden, _ = _matrix(shapes, "denoiser.blocks.0.mlp.fc1.weight", path)
    outputs, _ = _matrix(shapes, "denoiser.final_layer.linear.weight", path)
    module = hyper.find(settings, ".DiT")
    heads = hyper.heads(module)
    if heads is None and width in DIT_HEADS:
        heads = DIT_HEADS[width]
        assumed.append(f"ldm.denoiser.heads: {heads}")
    if heads is None:
        raise CheckpointError(
            f"{path} does not say how many attention heads its denoiser of width {width} has: this"
            " is not a published checkpoint"
        )
    diffusion = hyper.section(_get(settings, "diffusion_configs"))
    if diffusion.get("predict_xstart"):
        raise CheckpointError(
            f"{path}: its denoiser predicts clean latents (predict_xstart), which is not supported"
            " here; no published model does"
        )
    conditions, statistics = _conditions(shapes, settings, path)
    module_settings = hyper.section(_get(settings, "condition_module"))
    config = LDMConfig(
        denoiser=DenoiserConfig(
            width=width,
            layers=_layers(shapes, "denoiser.blocks.{}.mlp.fc1.weight"),
            heads=heads,
            mlp_ratio=hidden // width,
            token_layout="interleaved",
        ),
        diffusion=DiffusionConfig(
            learned_variance=outputs == 2 * latent_dim,
            steps=diffusion.get("diffusion_steps", 1000),
        ),
        sampler=SamplerConfig(scheduler="ddim", steps=50, eta=1.0),
        conditions=conditions,
        condition_drop=module_settings.get("drop_prob", 0.2),
        latent_scale="scalar",
    )
    return config, statistics


def _get(settings: Any, name: str) -> Any:
    return settings.get(name) if isinstance(settings, dict) else None


def _conditions(
    shapes: Shapes, settings: Any, path: Path
) -> tuple[dict[str, ConditionConfig], dict[str, tuple[float, float]]]:
    found: dict[str, ConditionConfig] = {}
    statistics: dict[str, tuple[float, float]] = {}
    start, end = "condition_module.encoders.", ".null_embed"
    module = hyper.section(_get(settings, "condition_module"))
    types = module.get("condition_type")
    for key, shape in shapes.items():
        if not (key.startswith(start) and key.endswith(end)):
            continue
        name = key[len(start) : -len(end)]
        said = types.get(name) if isinstance(types, dict) else None
        features = shape[-1] if shape else 0
        found[name] = _condition(name, said, features, path)
        if found[name].kind == "number":
            statistics[name] = _statistics(name, settings, path)
    return found, statistics


def _condition(name: str, said: Any, features: int, path: Path) -> ConditionConfig:
    """Tell the kind of a condition from its number of input features, and from its name."""
    parts = said.values() if isinstance(said, dict) else [said]
    words = " ".join([name, *(part[:100] for part in parts if isinstance(part, str))]).lower()
    if features == 1:
        return ConditionConfig(kind="number", column=name)
    if features != CLASSES or "class" in words or "categor" in words:
        return ConditionConfig(kind="category", column=name, categories=features)
    if "chem" in words or "system" in words:
        return ConditionConfig(kind="chemical_system")
    if "comp" in words:
        return ConditionConfig(kind="composition")
    raise CheckpointError(
        f"{path} does not say what kind of condition '{name[:80]}' is: its hyper-parameters are"
        " incomplete; give another checkpoint of the run"
    )


def _statistics(name: str, settings: Any, path: Path) -> tuple[float, float]:
    """Return mean and standard deviation of a numeric condition, wherever they are kept."""
    for place in hyper.named(settings, name):
        pair = _mean_std(place)
        if pair is not None:
            return pair
    raise CheckpointError(
        f"{path} does not hold the mean and standard deviation of condition '{name[:80]}', so its"
        " values have no scale: its hyper-parameters are incomplete; give another checkpoint of"
        " the run"
    )


def _mean_std(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, dict):
        return None
    mean, std = place.get("mean"), place.get("std")
    if not isinstance(mean, (int, float)) or not isinstance(std, (int, float)):
        return None
    fits = abs(mean) < 1e30 and 1e-30 < std < 1e30  # also refuses NaN
    return (float(mean), float(std)) if fits else None


def predictor_targets(settings: Any, path: Path) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of every target of a published predictor.

    Raises:
        CheckpointError: if they are missing.
    """
    targets = hyper.section(_get(settings, "target_conditions"))
    found = {name: _mean_std(place) for name, place in targets.items()}
    missing = [name for name, pair in found.items() if pair is None]
    if missing or not found:
        raise CheckpointError(
            f"{path} does not hold the mean and standard deviation of its targets"
            f" {', '.join(missing)[:200]}, so its predictions have no scale: give another"
            " checkpoint of the run"
        )
    return {name: pair for name, pair in found.items() if pair is not None}


def predictor_config(settings: Any, targets: list[str]) -> PredictorConfig:
    """Return the config of a published predictor's head."""
    plain = hyper.section(settings)
    return PredictorConfig(
        targets=targets,
        reduce=plain.get("reduce", "mean"),
        encoder_features=plain.get("use_encoder_features", True),
        head="pooled",
        loss="mse",
    )
