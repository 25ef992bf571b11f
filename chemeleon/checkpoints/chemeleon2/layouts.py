"""Names, shapes and constants of the published Chemeleon2 models.

A layout maps our name of a tensor to the published name and the shape that the sizes demand, so the
same table renames, finds what is missing and refuses what does not fit.

Shape letters: ``D`` width, ``L`` latent channels, ``H`` hidden width, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from chemeleon.config.architecture import ConditionConfig, LDMConfig, VAEConfig
from chemeleon.config.predictor import PredictorConfig

CLASSES = 100  # element slots, index = atomic number
TIME_FEATURES = 256
# heads by width, where a file does not say: the published VAE, and DiT-S, -B, -L, -XL (Peebles and
# Xie 2023, table 1)
HEADS = {"vae": {512: 8}, "ldm.denoiser": {384: 6, 768: 12, 1024: 16, 1152: 16}}

# Crystals by number of atoms, 0 .. 20. Published files do not hold the distribution that sizes are
# drawn from; this is that of MP-20, counted on 13,875 of its crystals (Materials
# Project, CC BY 4.0).
MP_20_SIZES = [
    *(0, 29, 247, 270, 1782, 681, 1098, 325, 1082, 491, 1325),
    *(219, 1511, 305, 906, 199, 978, 146, 795, 151, 1335),
]


class Wanted(NamedTuple):
    """A tensor of a published file: its name there and the shape it must have."""

    name: str
    shape: tuple[int, ...]


Layout = dict[str, Wanted]


def _linear(ours: str, theirs: str, out: int, inputs: int, bias: bool = True) -> Layout:
    entries = {f"{ours}.weight": Wanted(f"{theirs}.weight", (out, inputs))}
    if bias:
        entries[f"{ours}.bias"] = Wanted(f"{theirs}.bias", (out,))
    return entries


def _norm(ours: str, theirs: str, width: int) -> Layout:
    return {f"{ours}.{part}": Wanted(f"{theirs}.{part}", (width,)) for part in ("weight", "bias")}


def _attention(ours: str, theirs: str, width: int) -> Layout:
    return {
        f"{ours}.qkv.weight": Wanted(f"{theirs}.in_proj_weight", (3 * width, width)),
        f"{ours}.qkv.bias": Wanted(f"{theirs}.in_proj_bias", (3 * width,)),
        **_linear(f"{ours}.out", f"{theirs}.out_proj", width, width),
    }


def _transformer(ours: str, theirs: str, layers: int, width: int, hidden: int) -> Layout:
    entries = _norm(f"{ours}.norm", f"{theirs}.norm", width)
    for i in range(layers):
        a, b = f"{ours}.blocks.{i}", f"{theirs}.layers.{i}"
        entries |= _norm(f"{a}.norm1", f"{b}.norm1", width)
        entries |= _attention(f"{a}.attn", f"{b}.self_attn", width)
        entries |= _norm(f"{a}.norm2", f"{b}.norm2", width)
        entries |= _linear(f"{a}.mlp.up", f"{b}.linear1", hidden, width)
        entries |= _linear(f"{a}.mlp.down", f"{b}.linear2", width, hidden)
    return entries


def _two_layers(ours: str, theirs: str, inputs: int, width: int, bias: bool = True) -> Layout:
    return {
        **_linear(f"{ours}.0", f"{theirs}.0", width, inputs, bias),
        **_linear(f"{ours}.2", f"{theirs}.2", width, width),
    }


def vae_layout(config: VAEConfig) -> Layout:
    """Return the layout of a VAE."""
    d, latent, hidden = config.width, config.latent_dim, config.feedforward
    entries: Layout = {
        "type_embedding.weight": Wanted("encoder.atom_type_embedder.weight", (CLASSES, d)),
        **_two_layers("lattice_embedding", "encoder.lattices_embedder", 9, d, bias=False),
        **_two_layers("coords_embedding", "encoder.frac_coords_embedder", 3, d, bias=False),
        **_transformer("encoder", "encoder.transformer", config.encoder_layers, d, hidden),
        **_transformer("decoder", "decoder.transformer", config.decoder_layers, d, hidden),
        **_linear("coords_head", "decoder.frac_coords_head", 3, d, bias=False),
        **_linear("lattice_head", "decoder.lattice_head", 6, d, bias=False),
        **_linear("to_moments", "quant_conv", 2 * latent, d, bias=False),
        **_linear("from_latent", "post_quant_conv", d, latent, bias=False),
    }
    if config.kind == "dng":
        entries |= _linear("type_head", "decoder.atom_types_head", CLASSES, d)
    return entries


def denoiser_layout(config: LDMConfig, latent_dim: int) -> Layout:
    """Return the layout of a denoiser and its conditions."""
    d, hidden = config.denoiser.width, config.denoiser.width * config.denoiser.mlp_ratio
    outputs = latent_dim * (2 if config.diffusion.learned_variance else 1)
    ours, theirs = "denoiser", "denoiser"
    final = f"{theirs}.final_layer"
    entries = {
        **_linear(f"{ours}.embed", f"{theirs}.x_embedder", d, latent_dim),
        **_two_layers(f"{ours}.time", f"{theirs}.t_embedder.mlp", TIME_FEATURES, d),
        **_linear(f"{ours}.modulation", f"{final}.adaLN_modulation.1", 2 * d, d),
        **_linear(f"{ours}.head", f"{final}.linear", outputs, d),
    }
    for i in range(config.denoiser.layers):
        a, b = f"{ours}.blocks.{i}", f"{theirs}.blocks.{i}"
        entries |= _attention(f"{a}.attn", f"{b}.attn", d)
        entries |= _linear(f"{a}.mlp.up", f"{b}.mlp.fc1", hidden, d)
        entries |= _linear(f"{a}.mlp.down", f"{b}.mlp.fc2", d, hidden)
        entries |= _linear(f"{a}.modulation", f"{b}.adaLN_modulation.1", 6 * d, d)
    if config.conditions:
        entries |= dict(_condition_layout(config.conditions, d))
    return entries


def _condition_layout(
    conditions: Mapping[str, ConditionConfig], width: int
) -> Iterator[tuple[str, Wanted]]:
    ours, theirs = "denoiser.conditions", "condition_module"
    for name, condition in conditions.items():
        a, b = f"{ours}.encoders.{name}", f"{theirs}.encoders.{name}"
        features = condition_features(condition)
        yield f"{a}.null", Wanted(f"{b}.null_embed", (1, features))
        yield from _two_layers(f"{a}.embed", f"{b}.embedding", features, width).items()
    yield from _two_layers(
        f"{ours}.project", f"{theirs}.proj", width * len(conditions), width
    ).items()


def condition_features(condition: ConditionConfig) -> int:
    """Return the number ``F`` of input features of a condition."""
    sizes = {"number": 1, "category": condition.categories or 0}
    return sizes.get(condition.kind, CLASSES)


def predictor_layout(config: PredictorConfig, vae: VAEConfig) -> Layout:
    """Return the layout of a predictor's head: three linear layers, two norms."""
    inputs = vae.latent_dim + (vae.width if config.encoder_features else 0)
    entries: Layout = {}
    size = inputs
    for i, out in ((0, inputs // 4), (4, inputs // 2)):
        entries |= _linear(f"head.{i}", f"proj.{i}", out, size)
        entries |= _norm(f"head.{i + 1}", f"proj.{i + 1}", out)
        size = out
    return entries | _linear("head.8", "proj.8", len(config.targets), size)
