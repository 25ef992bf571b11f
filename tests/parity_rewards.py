"""Arrays of the recorded rewards, their scaling, and the distances they are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from parity import FUSED, Found, Golden, fused_gelu
from reference import reference

from chemeleon.config.rl import RewardConfig
from chemeleon.crystals.convert import from_structures
from chemeleon.evaluation.matching.amd import average_minimum_distances, chebyshev
from chemeleon.evaluation.metrics.statistics import frechet
from chemeleon.reinforcement.rewards._diversity import leave_one_out, polynomial_mmd
from chemeleon.reinforcement.rewards.base import Candidates, Context
from chemeleon.reinforcement.rewards.mix import Mix, normalise
from chemeleon.reinforcement.rewards.predictor import Predictor, PredictorOptions

CPU = torch.device("cpu")


def function_arrays(golden: Golden) -> Iterator[Found]:
    """Scaling of rewards and the MMD."""

    def get(name: str) -> torch.Tensor:
        return golden.get("functions", name)

    def scaled(name: str, how: str, groups: int = 1) -> torch.Tensor:
        values = get(name)
        return normalise(values, torch.arange(len(values)) // (len(values) // groups), how)  # type: ignore[arg-type]

    constant = torch.full((6,), 0.3)
    together = torch.zeros(6, dtype=torch.int64)
    yield Found("normalize_out", scaled("norm_in", "minmax"), "to [0, 1]")
    yield Found("standardize_out", scaled("norm_in", "std"), "to mean 0, deviation 1")
    yield Found("normalize_const_out", normalise(constant, together, "minmax"), "no spread")
    yield Found("standardize_const_out", normalise(constant, together, "std"), "no spread")
    yield Found("grp_adv", scaled("grp_rewards", "std", groups=4), "within groups of eight")
    for name, how in (
        ("norm", "minmax"), ("subtract_mean", "mean"), ("clip", "clip"), ("std", "std"),
    ):  # fmt: skip
        yield Found(f"reward_{name}", scaled("grp_rewards", how), f"reward scaled by {how}")
    sample, reference = get("mmd_z_gen").double(), get("mmd_z_ref").double()
    yield Found("mmd_r", -polynomial_mmd(sample, reference), "minus the squared MMD")
    yield Found("mmd_r_indiv", leave_one_out(sample, reference), "change without each sample")


def metric_arrays(golden: Golden) -> Iterator[Found]:
    """Average minimum distances, unique, novel, creativity, Frechet distance."""
    vectors = average_minimum_distances(golden.flat)
    yield Found("amd_100", vectors, "average minimum distances")
    yield Found("amd_cdist", chebyshev(vectors, vectors), "Chebyshev distances")
    features = golden.get("features_metrics", "structure_features").double().numpy()
    yield Found("frechet", frechet(features[:8], features[8:]), "squared Frechet distance")
    from pymatgen.core import Structure

    held = json.loads(reference("golden/metrics_structures.json").read_text())
    made = from_structures([Structure.from_dict(item) for item in held])
    mix = Mix(
        {"creativity": RewardConfig(reward="creativity")},
        reference=golden.flat.subset(torch.arange(10)),
        device=CPU,
        jobs=1,
    )
    scores = mix.score(made, torch.zeros(len(made), dtype=torch.int64))
    yield Found("gen_unique", scores.facts["unique"], "first of equal crystals")
    yield Found("gen_novel", scores.facts["novel"], "not in the reference set")
    yield Found("gen_creativity", scores.raw["creativity"], "creativity")


def predictor_arrays(golden: Golden) -> Iterator[Found]:
    """The reward of a predicted band gap."""
    options = PredictorOptions(
        model=str(golden.folders["predictor_bandgap"]), goal="target", target=1.0, clip=(0, 3)
    )
    reward = Predictor(options, Context(None, CPU))
    group = torch.zeros(len(golden.flat), dtype=torch.int64)
    with fused_gelu():
        answer = reward.score(Candidates(golden.flat, group, [None] * len(group)))
    yield Found("reward_raw", answer.values, "minus the squared distance to 1 eV", FUSED)
    scaled = normalise(answer.values, group, "minmax")
    yield Found("reward_norm", scaled, "the same to [0, 1]", FUSED)


def reward_arrays(golden: Golden) -> dict[str, Iterator[Found]]:
    """Compare everything recorded of rewards, by file."""
    return {
        "functions": function_arrays(golden),
        "features_metrics": metric_arrays(golden),
        "predictor": predictor_arrays(golden),
    }
