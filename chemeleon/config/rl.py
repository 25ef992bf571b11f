"""Settings of fine-tuning by reinforcement learning."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from chemeleon.config.architecture import LoRAConfig
from chemeleon.config.bounds import Fraction, Location, NonNegative, Positive, Section
from chemeleon.config.requests import MAX_CRYSTALS, guided_steps
from chemeleon.config.schedulers import SCHEDULERS, SamplerConfig
from chemeleon.errors import ConfigError

# metrics of a rollout and of validation that are no reward's
RESERVED = (
    "reward", "loss", "distinct_formulas", "distinct_elements", "element_drift",
    "num_elements_distance",
)  # fmt: skip
# settings that only the other algorithm reads: off by default, or on and set by presets for both
_UNREAD = {
    "grpo": ("top_fraction", "noise_draws"),
    "rejection": ("reference_kl", "filter_zero_variance", "likelihood", "old_log_probs"),
}
_UNREAD_IF_GIVEN = {
    "grpo": (),
    "rejection": ("clip_ratio", "kl_weight", "kl_ratio", "entropy_weight", "ddpm_last_step"),
}
Normalise = Literal["none", "minmax", "std", "mean", "clip"]
Combine = Literal["sum", "product", "pareto"]
KLRatio = Literal["new_over_old", "old_over_new"]


class RewardConfig(Section):
    """One reward of a mix."""

    reward: str = Field(
        description="A name of `chemeleon rl rewards`, `./FILE.py:NAME` or `package.module:NAME`."
    )
    weight: float = Field(
        default=1.0, allow_inf_nan=False, description="Factor in the sum, after normalising."
    )
    normalise: Normalise = Field(
        default="none",
        description="`minmax`: to [0, 1]; `std`: mean 0, deviation 1; `mean`: mean 0; `clip`: to"
        " [-1, 1].",
    )
    within: Literal["group", "batch"] = Field(
        default="group",
        description="Crystals that are normalised together: a group, or all (published).",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The reward's own settings: `chemeleon rl rewards NAME`."
    )

    def unread(self) -> list[str]:
        """Return the settings that would change nothing, and why."""
        if self.within == "batch" and self.normalise in ("none", "clip"):
            return [
                f"within=batch would change nothing with normalise={self.normalise}, which looks at"
                " each crystal alone: leave it out, or normalise by minmax, std or mean"
            ]
        return []


class RLConfig(Section):
    """How crystals are generated, scored and trained on; the defaults are the published algorithm,
    but for ``kl_ratio`` and ``ddpm_last_step``.

    One update makes ``data.batch_size`` groups of ``num_group_samples`` crystals on each process.
    The crystals of a group have the number of atoms (the condition, the composition) of one
    training crystal.
    """

    ldm_ckpt_path: Location | None = Field(
        default=None, description="LDM to tune: a run or model folder, or hub:NAME. Needed."
    )
    algorithm: Literal["grpo", "rejection"] = Field(
        default="grpo",
        description="`grpo`: policy gradient on all steps (Shao et al. 2024, arXiv:2402.03300);"
        " `rejection`: train on the best of each group (RAFT, Dong et al. 2023, arXiv:2304.06767).",
    )
    rewards: dict[str, RewardConfig] = Field(
        min_length=1,
        description="Name to reward; what `combine` makes of them, their weighted sum, is made"
        " large. rl.rewards.NAME=null drops one of a preset.",
    )
    combine: Combine = Field(
        default="sum",
        description="How several rewards become one: their weighted `sum`; their `product`, each to"
        " the power of its weight, which is large only where all are (rewards from 0 on:"
        " normalise others by minmax); `pareto`: minus the share of the group that is at least as"
        " good in all of them and better in one (of a weight its sign alone counts).",
    )
    judges: dict[str, RewardConfig] = Field(
        default_factory=dict,
        description="Rewards of validation crystals alone, which nothing is learned from, such as"
        " `energy` by a potential of another family than the rewards'; see `criterion`.",
    )
    criterion: str = Field(
        default="reward",
        description="Validation figure by which `best` is kept and `trainer.patience` ends a run:"
        " `reward` (the weighted sum), a reward or judge by its name, or as metrics.jsonl has it"
        " behind val/, such as `fact/msun` and `judge/msun`. It is to grow, or to fall if a minus"
        " stands before it: `-fact/p1`.",
    )
    limits: dict[str, float] = Field(
        default_factory=dict,
        description="Validation figures, named as in `criterion`, that end a run:"
        " `fact/unique: 0.9` if it falls below, `-fact/p1: 0.6` if it rises above. What is beyond"
        " is not kept as `best`.",
    )
    num_group_samples: int = Field(
        default=64, ge=2, le=MAX_CRYSTALS, description="Crystals per group."
    )
    minibatches: Positive = Field(
        default=2, description="Optimizer steps per update; each takes its part of every group."
    )
    sampler: SamplerConfig = Field(
        default_factory=SamplerConfig,
        description="How rollouts are sampled: ddim or ddpm; euler for flow models, with the noise"
        " of Flow-GRPO (Liu et al. 2025, arXiv:2505.05470), whose level is eta.",
    )
    guidance: NonNegative | None = Field(
        default=None,
        description="Conditional models: classifier-free guidance scale in rollouts; none is the"
        " condition alone."
        " Not for rejection.",
    )
    guidance_interval: tuple[Fraction, Fraction] = Field(
        default=(0.0, 1.0),
        description="Part of the trajectory that is guided, 0 its beginning and 1 its end; the rest"
        " takes the condition alone (Kynkäänniemi et al. 2024, arXiv:2404.07724).",
    )
    clip_ratio: float = Field(
        default=1e-3,
        gt=0,
        le=1e6,
        description="Probability ratios beyond 1 +- this gain nothing more.",
    )
    kl_weight: NonNegative = Field(
        default=1.0, description="Weight of the KL from the rollout's policy to the present one."
    )
    kl_ratio: KLRatio = Field(
        default="new_over_old",
        description="Probability ratio r in that KL's estimate r - 1 - log r (k3 of Schulman's note"
        " on approximating KL): `new_over_old` is unbiased on the rollout's crystals;"
        " `old_over_new` (published) is Shao et al.'s form, for crystals of the new policy.",
    )
    entropy_weight: NonNegative = Field(default=1e-5, description="Weight of the entropy.")
    ddpm_last_step: bool = Field(
        default=False,
        description="ddpm: train on its last step, too, as if it had drawn noise (published); the"
        " step is deterministic, so that its likelihood is not the policy's.",
    )
    reference_kl: NonNegative = Field(
        default=0.0,
        description="Weight of the KL to the model before tuning, 0 is off (DPOK, Fan et al. 2023,"
        " arXiv:2305.16381; Flow-GRPO). Costs one more evaluation per step.",
    )
    likelihood: Literal["per_atom", "per_crystal"] = Field(
        default="per_atom",
        description="Log-probability of a step: mean over atoms and channels (published), or their"
        " sum, as compared in OMatG-IRL (arXiv:2602.00424); clip_ratio must fit.",
    )
    window: Positive | None = Field(
        default=None,
        description="Add noise in, and train on, this many consecutive steps only; the others"
        " are deterministic (MixGRPO, Li et al. 2025, arXiv:2507.21802). Not for ddpm.",
    )
    window_every: Positive = Field(
        default=25, description="Updates after which the window moves on by one step."
    )
    shared_noise: bool = Field(
        default=False,
        description="Start all crystals of a group from the same noise (DanceGRPO, Xue et al. 2025,"
        " arXiv:2505.07818).",
    )
    filter_zero_variance: bool = Field(
        default=False,
        description="Leave out groups whose rewards have zero variance (DAPO, Yu et al. 2025,"
        " arXiv:2503.14476), on all processes together; by default they count with advantage 0.",
    )
    top_fraction: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Rejection: top fraction of a group, which is trained on.",
    )
    noise_draws: Positive = Field(
        default=8, description="Rejection: noise levels that each kept crystal is shown at."
    )
    old_log_probs: Literal["auto", "rollout", "recompute"] = Field(
        default="auto",
        description="Likelihoods that ratios start from: as met in the rollout, or computed again"
        " in the form of the training batches; `auto` does so in half precision, where the form"
        " of a batch changes the last digits.",
    )
    micro_batch: Positive | None = Field(
        default=None,
        description="Crystals x steps per backward pass; by default from the memory there is.",
    )
    lora: LoRAConfig | None = Field(
        default=None,
        description="Tune low-rank adapters (Hu et al. 2021, arXiv:2106.09685), not all weights.",
    )
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of averaged weights; 0 (published) is off."
    )
    val_samples: Positive = Field(
        default=128,
        le=MAX_CRYSTALS,
        description="Crystals per validation, always from the same noise.",
    )
    pictures_every: int = Field(
        default=25,
        ge=0,
        description="Updates between pictures of the best and of random crystals; 0 is none.",
    )

    @field_validator("rewards", "judges", mode="before")
    @classmethod
    def _drop(cls, rewards: Any) -> Any:
        if not isinstance(rewards, dict):
            return rewards
        return {name: reward for name, reward in rewards.items() if reward is not None}

    def unread(self, given: Collection[str] = ()) -> list[str]:
        """Return what would change nothing, and why; the command itself has set ``given``."""
        eta, fields = self.sampler.unread_eta("euler"), type(self).model_fields
        found = [] if eta is None else [f"sampler.{eta}"]
        names = [n for n in _UNREAD[self.algorithm] if getattr(self, n) != fields[n].default]
        names += [n for n in _UNREAD_IF_GIVEN[self.algorithm] if n in given]
        if self.window is None and "window_every" in given:
            found.append("window_every would change nothing without window: set window, too")
        name = self.sampler.scheduler
        if self.algorithm == "grpo" and "ddpm_last_step" in given and name != "ddpm":
            found.append(
                f"ddpm_last_step would change nothing with sampler.scheduler={name}: leave it out,"
                " or use ddpm"
            )
        if names:
            found.append(
                f"{', '.join(names)} would change nothing with algorithm={self.algorithm}:"
                " leave out, or choose the other algorithm"
            )
        for key, rewards in (("rewards", self.rewards), ("judges", self.judges)):
            for name, reward in rewards.items():
                found += [f"{key}.{name}.{text}" for text in reward.unread()]
        return found

    @model_validator(mode="after")
    def _consistent(self) -> RLConfig:
        problems = []
        name, steps = self.sampler.scheduler, self.sampler.steps
        if not SCHEDULERS[name].gaussian:
            problems.append(
                f"sampler.scheduler={name} has no likelihood: use ddim, ddpm or euler (flow)"
            )
        if self.sampler.temperature != 1:
            problems.append(
                "sampler.temperature must be 1: likelihoods are those of the model itself"
            )
        if self.sampler.redraw:
            problems.append("sampler.redraw must be 0: bad crystals are learned from, too")
        if name != "ddpm" and self.sampler.eta == 0:
            problems.append("sampler.eta=0 is deterministic, so there is nothing to learn from")
        if self.window is not None and name == "ddpm":
            problems.append("window needs steps without noise, which ddpm does not have: use ddim")
        if self.window is not None and self.window >= steps:
            problems.append(f"window={self.window} must be below sampler.steps={steps}")
        if self.num_group_samples % self.minibatches:
            problems.append(
                f"num_group_samples={self.num_group_samples} must be a multiple of"
                f" minibatches={self.minibatches}"
            )
        try:
            guided_steps(self.guidance_interval, steps)
        except ConfigError as error:
            problems.append(str(error))
        if self.guidance_interval != (0, 1) and self.guidance is None:
            problems.append("guidance_interval says when guidance acts: set guidance")
        if self.algorithm == "rejection" and self.guidance is not None:
            problems.append(
                "guidance goes with algorithm=grpo: rejection would train its effect into the model"
            )
        if self.combine == "product":
            problems += [
                f"rewards.{name}: combine=product needs rewards from 0 on with a weight above 0:"
                " normalise by minmax, or not at all"
                for name, reward in self.rewards.items()
                if reward.weight <= 0 or reward.normalise in ("std", "mean")
            ]
        written = {f"{n}_{what}" for n in ("reward", *self.rewards) for what in ("std", "failed")}
        for name in self.rewards:
            if name in written or name in RESERVED:
                problems.append(f"rewards.{name} has the name of another metric: rename it")
        problems += [
            f"judges.{name} has the name of a reward or another metric: rename it"
            for name in self.judges
            if name in self.rewards or name in RESERVED
        ]
        known = ["reward", *self.rewards, *self.judges]
        wanted = {"criterion": [self.criterion], "limits": [*self.limits]}
        problems += [
            f"{key} {name} is no figure of validation: {', '.join(known)}, or fact/NAME or"
            " judge/NAME"
            for key, names in wanted.items()
            for name in names
            if name.removeprefix("-") not in known
            and not name.removeprefix("-").startswith(("fact/", "judge/"))
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
