"""Arrays of the VAE, the predictor, the conditions, the data and plain functions; see ``parity``.

Shapes: ``B`` crystals, ``N`` padded atoms.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

import torch
from parity import FUSED, Found, Golden, fused_gelu
from parity_rewards import reward_arrays
from reference import reference

from chemeleon.config.architecture import ConditionConfig, DiffusionConfig
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.diffusion.schedulers import (
    alphas_cumprod,
    make_scheduler,
    posterior_coefficients,
)
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.layers import index_embedding, timestep_embedding
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.models.vae_losses import vae_losses

FORMULAS = ["BaTiO3", "Fe4O6", "CuCdN3", "C12", "LiFePO4", "NaCl"]
SYSTEMS = ["Ba-Ti-O", "Fe-O", "Cu-Cd-N", "C", "Li-Fe-P-O", "Na-Cl"]

TIMES = (0, 1, 17, 250, 999)
KERNELS = "in a process with MKL_CBWR=COMPATIBLE: the last bit of exp is the CPU's, times t = 999"
NO_MKL = "without MKL the last bit of exp differs in some frequencies, times t = 999"


def vae_arrays(golden: Golden, file: str) -> Iterator[Found]:
    """Compare encoder, decoder, reconstruction, losses and gradients."""
    vae = CrystalVAE.from_pretrained(golden.folders[file])
    batch, mask = golden.batch, golden.batch.mask
    z = golden.dense(golden.get(file, "z"))
    with torch.no_grad():
        for suffix in ("slow", "fast"):
            note = FUSED if suffix == "fast" else ""
            with fused_gelu() if note else torch.no_grad():
                posterior, features = vae.encode_features(batch)
                decoded = vae.decode(z, batch)
                crystals = vae.to_crystals(decoded, batch)
            moments = torch.cat([posterior.mean, posterior.logvar], -1)
            yield Found(f"enc_x_{suffix}", features[mask], "encoder output", note)
            yield Found(f"moments_{suffix}", moments[mask], "mean and log-variance", note)
            if decoded.type_logits is not None:
                logits = decoded.type_logits[mask]
                yield Found(f"dec_atom_logits_{suffix}", logits, "type logits", note)
            yield Found(f"dec_lengths_{suffix}", decoded.lengths, "scaled lengths", note)
            yield Found(f"dec_angles_{suffix}", decoded.angles, "angles", note)
            yield Found(f"dec_frac_{suffix}", decoded.coords[mask], "coordinates", note)
            if suffix == "slow":
                yield Found("mean", posterior.mean[mask], "posterior mean")
                yield Found("logvar", posterior.logvar[mask], "posterior log-variance")
                std = torch.exp(0.5 * posterior.logvar)
                yield Found("std", std[mask], "posterior standard deviation")
                yield Found("kl_per_atom", posterior.kl()[mask], "KL per atom")
                eps = golden.dense(golden.get(file, "eps"))
                yield Found("z", posterior.sample(eps)[mask], "draw of the posterior")
    yield Found("rec_atom_types", crystals.atomic_numbers, "decoded types")
    yield Found("rec_frac_coords", crystals.frac_coords, "decoded coordinates", FUSED)
    yield Found("rec_cart_coords", crystals.cart_coords, "decoded positions", FUSED)
    yield Found("rec_lattices", crystals.lattice, "decoded cells", FUSED)
    yield Found("rec_lengths", lattice_lengths(crystals.lattice), "decoded lengths", FUSED)
    angles = torch.rad2deg(lattice_angles(crystals.lattice))
    yield Found("rec_angles", angles, "decoded angles", FUSED)
    yield Found("rec_structure_lattice", crystals.lattice, "decoded cells", FUSED)
    yield Found("rec_structure_frac", crystals.frac_coords, "decoded coordinates", FUSED)
    for mode in ("eval", "train", "evalnograd"):
        yield from _vae_losses(golden, file, vae, mode)


def _vae_losses(golden: Golden, file: str, vae: CrystalVAE, mode: str) -> Iterator[Found]:
    fused = mode == "evalnograd"
    draws = golden.draws(file, "eval" if fused else mode)
    batch = golden.augmented(draws) if mode == "train" else golden.batch
    vae.zero_grad()
    with fused_gelu() if fused else torch.enable_grad():
        output = vae(batch, golden.dense(draws["randn"][-1]))
    atoms = int(batch.num_atoms.sum())
    terms = vae_losses(output, batch, vae.config.loss, atoms, len(batch))
    note = FUSED if fused else ""
    names = {"lengths": "lengths", "angles": "angles", "coords": "frac_coords", "kl": "kl"}
    if vae.config.kind == "dng":
        names["types"] = "atom_types"
    for ours, theirs in names.items():
        yield Found(f"loss_{mode}_loss_{theirs}", terms[ours], f"loss of {theirs}", note)
    yield Found(f"loss_{mode}_total_loss", terms["loss"], "weighted loss", note)
    if fused:
        return
    terms["loss"].backward()
    squares = [p.grad.double().square().sum() for p in vae.parameters() if p.grad is not None]
    yield Found(f"loss_{mode}_gradnorm", torch.stack(squares).sum().sqrt(), "gradient norm")
    grad = vae.to_moments.weight.grad
    yield Found(f"loss_{mode}_grad_quant_conv", grad, "gradient of the last encoder layer")


def other_arrays(golden: Golden) -> dict[str, Iterator[Found]]:
    """Compare everything beside VAE and denoiser."""
    found = {
        "batch": _batch(golden),
        "functions": _functions(golden),
        "conditions": _conditions(golden),
        "predictor": _predictor(golden),
        "features_metrics": _features(golden),
    }
    rewards = reward_arrays(golden)
    return {file: chain(arrays, rewards.get(file, ())) for file, arrays in found.items()}


def _batch(golden: Golden) -> Iterator[Found]:
    from chemeleon.data.building import parse_source

    parsed = parse_source(reference("golden/structures.csv"))
    crystals = Crystals(
        parsed.atomic_numbers.long(),
        parsed.frac_coords,
        parsed.lattice,
        parsed.num_atoms.long(),
        parsed.columns,
        parsed.ids,
    )
    batch = crystals.batch(torch.arange(len(crystals)))
    mask = batch.mask
    # the same positions: they keep 1 where we keep 0
    cells = torch.round(golden.batch.frac_coords - batch.frac_coords)
    batch = batch.with_geometry(batch.frac_coords + cells, batch.lattice)
    same = "Niggli cell, up to a lattice vector"
    scale = batch.num_atoms.unsqueeze(-1).pow(1 / 3)
    yield Found("atom_types", batch.atomic_numbers[mask], "read from CIF")
    yield Found("num_atoms", batch.num_atoms, "read from CIF")
    yield Found("frac_coords", batch.frac_coords[mask], same)
    positions = (batch.frac_coords @ batch.lattice)[mask]
    yield Found("cart_coords", positions, same)
    yield Found("pos", positions, same)
    yield Found("lattices", batch.lattice, "Niggli cell")
    yield Found("lengths", lattice_lengths(batch.lattice), "Niggli cell")
    yield Found("lengths_scaled", lattice_lengths(batch.lattice) / scale, "Niggli cell")
    yield Found("angles", torch.rad2deg(lattice_angles(batch.lattice)), "Niggli cell")
    yield Found("angles_radians", lattice_angles(batch.lattice), "Niggli cell")
    yield Found("band_gap_file", crystals.targets["band_gap"], "column of the CSV")


def _functions(golden: Golden) -> Iterator[Found]:
    yield Found("index_embedding_64", index_embedding(torch.arange(24), 64), "index embedding")
    yield _time_embedding()
    lengths, angles = golden.get("functions", "lat_lengths"), golden.get("functions", "lat_angles")
    matrix = lattice_from_parameters(lengths, torch.deg2rad(angles))
    yield Found("lat_matrix", matrix, "cell from parameters")
    diffusion = DiffusionConfig()
    alphas = alphas_cumprod(diffusion)
    for name in ("train1000", "ddim50", "ddpm50", "ddim20"):
        kind = "ddpm" if name == "ddpm50" else "ddim"
        steps = int(name.removeprefix("train").removeprefix("ddim").removeprefix("ddpm"))
        scheduler = make_scheduler(diffusion, SamplerConfig(scheduler=kind, steps=steps))
        times = scheduler.timesteps.flip(0).long()
        here = alphas[times]
        below = torch.cat([here.new_ones(1), here[:-1]])
        step = posterior_coefficients(here, below)
        clipped = torch.cat([step.variance[1:2], step.variance[1:]])
        yield Found(f"{name}_timestep_map", times, "times of the walk")
        for array, value in {
            "betas": step.beta,
            "alphas_cumprod": here,
            "alphas_cumprod_prev": below,
            "posterior_variance": step.variance,
            "posterior_log_variance_clipped": torch.log(clipped),
            "posterior_mean_coef1": step.on_x0,
            "posterior_mean_coef2": step.on_z,
        }.items():
            yield Found(f"{name}_{array}_f64", value, "schedule")


def _time_embedding() -> Found:
    """Embed times with the kernels of the machine that recorded them.

    Intel's library picks ``exp`` by CPU, and its kinds differ in the last bit of float32; that bit
    times t = 999 is 3e-5 of the sine. Their machine had the kind for CPUs without AVX2.
    """
    name, what = "timestep_embedding_256", "time embedding"
    if not torch.backends.mkl.is_available():
        return Found(name, timestep_embedding(torch.tensor(TIMES), 256), what, NO_MKL, bound=6e-5)
    code = (
        "import torch; from chemeleon.models.layers import timestep_embedding as embed;"
        f"print(embed(torch.tensor({TIMES}), 256).tolist())"
    )
    env = {**os.environ, "MKL_CBWR": "COMPATIBLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return Found(name, torch.tensor(json.loads(done.stdout)), what, KERNELS)


def _conditions(golden: Golden) -> Iterator[Found]:
    encoder = ConditionEncoder(
        {
            "composition": ConditionConfig(kind="composition"),
            "chemsys": ConditionConfig(kind="chemical_system"),
            "gap": ConditionConfig(kind="number", column="gap"),
            "klass": ConditionConfig(kind="category", column="klass", categories=7),
        },
        32,
    )
    weights = {
        name.removeprefix("w.")
        .replace("null_embed", "null")
        .replace("embedding", "embed")
        .replace("proj.", "project."): golden.get("conditions", name)
        for name in golden.files["conditions"].files
        if name.startswith("w.")
    }
    statistics = {"encoders.gap.mean": torch.tensor(0.2), "encoders.gap.std": torch.tensor(0.6)}
    encoder.load_state_dict(weights | statistics)
    features = encoder.featurise(_formula_batch(golden, FORMULAS))
    features["chemsys"] = encoder.featurise(_formula_batch(golden, SYSTEMS))["chemsys"]
    none = dict.fromkeys(features, torch.zeros(6, dtype=torch.bool))
    every = dict.fromkeys(features, torch.ones(6, dtype=torch.bool))
    for name, value in features.items():
        yield Found(f"pre_{name}", value, "features")
        yield Found(f"embed_{name}", encoder.encoders[name](value, none[name]), "encoder")
    both = torch.cat([encoder(features, none), encoder(features, every)])
    yield Found("out_sampling", both, "conditional rows, then null rows")
    drop = dict.fromkeys(features, golden.get("conditions", "train_draw00_rand") < 0.3)
    yield Found("out_train", encoder(features, drop), "with dropped conditions")


def _formula_batch(golden: Golden, formulas: list[str]) -> CrystalBatch:
    from pymatgen.core import Composition

    columns = {name: golden.get("conditions", name).float() for name in ("gap", "klass")}
    atoms = []
    for formula in formulas:
        parts = Composition(formula.replace("-", "")).items()
        atoms.append([element.Z for element, count in parts for _ in range(int(count))])
    sizes = torch.tensor([len(numbers) for numbers in atoms])
    types = torch.zeros(len(atoms), int(sizes.max()), dtype=torch.int64)
    for row, numbers in zip(types, atoms, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    cells = torch.eye(3).expand(len(atoms), 3, 3)
    return CrystalBatch(types, torch.zeros(*types.shape, 3), cells, sizes, columns)


def _features(golden: Golden) -> Iterator[Found]:
    vae = CrystalVAE.from_pretrained(golden.folders["vae_dng"])
    batch, real = golden.batch, golden.batch.mask.unsqueeze(-1)
    sizes = batch.num_atoms.unsqueeze(-1)
    with fused_gelu(), torch.no_grad():
        posterior, encoded = vae.encode_features(batch)
        elements = vae.type_embedding(batch.atomic_numbers)
    latents, both = posterior.mean, torch.cat([posterior.mean, encoded], dim=-1)
    yield Found("structure_features", (latents * real).sum(1) / sizes, "mean latent", FUSED)
    yield Found("structure_features_sum_enc", (both * real).sum(1), "summed features", FUSED)
    yield Found("composition_features", (elements * real).sum(1) / sizes, "mean embedding")


def _predictor(golden: Golden) -> Iterator[Found]:
    predictor = Predictor.from_pretrained(golden.folders["predictor_bandgap"])
    with fused_gelu(), torch.no_grad():
        standardised = predictor(golden.batch)
        values = predictor.predict(golden.batch)
    loss = (standardised - predictor.standardised(golden.batch)).square().mean()
    in_units = (values["band_gap"] - golden.batch.targets["band_gap"]).square().mean()
    assert not math.isnan(float(loss))
    yield Found("pred_norm", standardised, "standardised prediction", FUSED)
    yield Found("pred_denorm", values["band_gap"], "prediction in eV", FUSED)
    yield Found("loss", loss, "loss", FUSED)
    yield Found("loss_band_gap", loss, "loss of the target", FUSED)
    yield Found("loss_denorm_band_gap", in_units, "squared error in eV^2", FUSED)
