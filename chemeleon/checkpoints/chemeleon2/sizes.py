"""Work out the configs of a published model from tensor shapes, and from hyper-parameters where
shapes do not tell: attention heads, condition kinds and statistics, diffusion steps.
"""

from __future__ import annotations

from typing import Any

from chemeleon.checkpoints.chemeleon2 import hyper
from chemeleon.checkpoints.chemeleon2.layouts import CLASSES, HEADS
from chemeleon.checkpoints.chemeleon2.screen import Refused
from chemeleon.checkpoints.chemeleon2.weights import Source
from chemeleon.config.architecture import (
    ConditionConfig,
    DenoiserConfig,
    DiffusionConfig,
    LDMConfig,
    VAEConfig,
    VAELossConfig,
)
from chemeleon.config.predictor import PredictorConfig
from chemeleon.config.schedulers import SamplerConfig

# published weights of the VAE's loss, where a file does not say
_LOSS = {"types": 1.0, "lengths": 1.0, "angles": 10.0, "coords": 10.0, "kl": 1e-5}
_LOSS_NAMES = {"types": "atom_types", "coords": "frac_coords"}


def _matrix(source: Source, name: str) -> tuple[int, int]:
    shape = source.shapes.get(name)
    if shape is None or len(shape) != 2 or 0 in shape:
        found = "is missing" if shape is None else f"has shape {shape}"
        raise Refused(
            f"needs a matrix '{name}', from which the sizes of the model are read, but it {found}:"
            " the file is damaged or no published checkpoint; fetch it again"
        )
    return shape[0], shape[1]


def _layers(source: Source, pattern: str) -> int:
    count = 0
    while pattern.format(count) in source.tensors:
        count += 1
    return count


def _heads(source: Source, network: str, width: int, said: int | None, remedy: str) -> int:
    """Return the attention heads of a network: as said, else those of a published width."""
    if said is not None:
        return said
    if width not in HEADS[network]:
        raise Refused(
            f"does not say how many attention heads its {network} of width {width} has: {remedy}"
        )
    source.assumed.append(f"{network}.heads: {HEADS[network][width]}")
    return HEADS[network][width]


def vae_config(
    source: Source, prefix: str, settings: Any = None, heads: int | None = None
) -> VAEConfig:
    """Return the config of a published VAE.

    Args:
        source: the checkpoint; notes what the file does not say.
        prefix: of the VAE's names.
        settings: hyper-parameters that may hold the pickled encoder.
        heads: attention heads, where they are known.

    Raises:
        Refused: if sizes are missing.
    """
    _, width = _matrix(source, f"{prefix}encoder.atom_type_embedder.weight")
    _, latent_dim = _matrix(source, f"{prefix}post_quant_conv.weight")
    layer = prefix + "{}.transformer.layers.{}.linear1.weight"
    hidden, _ = _matrix(source, layer.format("encoder", 0))
    remedy = (
        "give the VAE it was trained with, whose file says it: --vae FOLDER or --vae FILE.ckpt"
        " (in Python vae=...)"
        if prefix
        else "its hyper-parameters are incomplete; give another checkpoint of the run"
    )
    heads = _heads(source, "vae", width, heads or hyper.heads(settings), remedy)
    return VAEConfig(
        latent_dim=latent_dim,
        width=width,
        encoder_layers=_layers(source, layer.replace("{}", "encoder", 1)),
        decoder_layers=_layers(source, layer.replace("{}", "decoder", 1)),
        heads=heads,
        feedforward=hidden,
        kind="dng" if f"{prefix}decoder.atom_types_head.weight" in source.tensors else "csp",
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


def ldm_config(source: Source, latent_dim: int) -> tuple[LDMConfig, dict[str, tuple[float, float]]]:
    """Return the config of a published latent diffusion model, and statistics of its numbers.

    Raises:
        Refused: if sizes are missing or the model is of a kind that is not supported.
    """
    width, channels = _matrix(source, "denoiser.x_embedder.weight")
    if channels != latent_dim:
        raise Refused(
            f"has a denoiser that takes {channels} latent channels, its VAE gives {latent_dim}:"
            " give the VAE that it was trained with"
        )
    hidden, _ = _matrix(source, "denoiser.blocks.0.mlp.fc1.weight")
    outputs, _ = _matrix(source, "denoiser.final_layer.linear.weight")
    said = hyper.heads(hyper.find(source.hyper, ".DiT"))
    heads = _heads(source, "ldm.denoiser", width, said, "this is not a published checkpoint")
    diffusion = source.section("diffusion_configs")
    if diffusion.get("predict_xstart"):
        raise Refused(
            "has a denoiser that predicts clean latents (predict_xstart), which is not supported"
            " here; no published model does"
        )
    module = source.section("condition_module")
    conditions, statistics = _conditions(source, module.get("condition_type"))
    config = LDMConfig(
        denoiser=DenoiserConfig(
            width=width,
            layers=_layers(source, "denoiser.blocks.{}.mlp.fc1.weight"),
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
        condition_drop=module.get("drop_prob", 0.2),
        latent_scale="scalar",
    )
    return config, statistics


def _conditions(
    source: Source, types: Any
) -> tuple[dict[str, ConditionConfig], dict[str, tuple[float, float]]]:
    found: dict[str, ConditionConfig] = {}
    statistics: dict[str, tuple[float, float]] = {}
    start, end = "condition_module.encoders.", ".null_embed"
    for key, shape in source.shapes.items():
        if not (key.startswith(start) and key.endswith(end)):
            continue
        name = key[len(start) : -len(end)]
        said = types.get(name) if isinstance(types, dict) else None
        features = shape[-1] if shape else 0
        found[name] = _condition(source, name, said, features)
        if found[name].kind == "number":
            statistics[name] = _statistics(source, name)
    return found, statistics


def _condition(source: Source, name: str, said: Any, features: int) -> ConditionConfig:
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
    raise Refused(
        f"does not say what kind of condition '{name[:80]}' is: its hyper-parameters are"
        " incomplete; give another checkpoint of the run"
    )


def _statistics(source: Source, name: str) -> tuple[float, float]:
    """Return mean and standard deviation of a numeric condition, wherever they are kept."""
    for place in hyper.named(source.hyper, name):
        pair = _mean_std(place)
        if pair is not None:
            return pair
    raise Refused(
        f"does not hold the mean and standard deviation of condition '{name[:80]}', so its values"
        " have no scale: its hyper-parameters are incomplete; give another checkpoint of the run"
    )


def _mean_std(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, dict):
        return None
    mean, std = place.get("mean"), place.get("std")
    if not isinstance(mean, (int, float)) or not isinstance(std, (int, float)):
        return None
    fits = abs(mean) < 1e30 and 1e-30 < std < 1e30  # also refuses NaN
    return (float(mean), float(std)) if fits else None


def predictor_targets(source: Source) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of every target of a published predictor.

    Raises:
        Refused: if they are missing.
    """
    targets = source.section("target_conditions")
    found = {name: _mean_std(place) for name, place in targets.items()}
    missing = [name for name, pair in found.items() if pair is None]
    if missing or not found:
        raise Refused(
            f"does not hold the mean and standard deviation of its targets"
            f" {', '.join(missing)[:200]}, so its predictions have no scale: give another"
            " checkpoint of the run"
        )
    return {name: pair for name, pair in found.items() if pair is not None}


def predictor_config(source: Source, targets: list[str]) -> PredictorConfig:
    """Return the config of a published predictor's head."""
    plain = hyper.section(source.hyper)
    return PredictorConfig(
        targets=targets,
        reduce=plain.get("reduce", "mean"),
        encoder_features=plain.get("use_encoder_features", True),
        head="pooled",
        loss="mse",
    )
