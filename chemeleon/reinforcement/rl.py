"""What one batch means when a latent diffusion model is tuned by rewards.

An epoch is one update: crystals are made by the present model, scored, and learned from in
``rl.minibatches`` optimizer steps. A run can only stop between updates, so the model that made a
rollout is the one that is saved, and resuming needs no more than that.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from chemeleon.checkpoints.card import trained_on
from chemeleon.config.rl import Combine, RewardConfig
from chemeleon.config.schema import RLTrainConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.diffusion.reverse import ReverseDiffusion
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.notes import (
    PICTURES,
    SYMMETRY_EVERY,
    Notes,
    Sums,
    draw_crystals,
    find_sums,
    weighted,
)
from chemeleon.reinforcement.objectives import Objective, PolicyGradient, Rejection
from chemeleon.reinforcement.pairs import Piece
from chemeleon.reinforcement.report import write_report
from chemeleon.reinforcement.rewards.mix import Mix, Scores
from chemeleon.reinforcement.rollout import Policy, draw_prompts
from chemeleon.storage import Draft
from chemeleon.training.adapted import Adapted, WritesLDM
from chemeleon.training.stage import Place, RunContext
from chemeleon.workers import worker_count

CPU_PAIRS = 1024
MOST_TOKENS = 32_768  # per backward pass on a GPU; more do not make it faster
ACTIVATION_BYTES = 130  # per token, block and channel, kept for the backward pass in bf16


class RLStage(WritesLDM):
    """Policy gradients, or training on the best, with the model's own crystals.

    Args:
        train, val: crystals whose sizes, conditions or compositions are requested.
        start: the model to be tuned.
        scorer: gives rewards.
        judge: scores validation crystals beside it, if there are judges.
        draft: the run on disk, for pictures.
        resume: the folder holds an earlier part of this run.
        place: this process.
    """

    whole_epochs = True

    def __init__(
        self,
        config: RLTrainConfig,
        train: Crystals,
        val: Crystals,
        *,
        start: LatentDiffusion,
        scorer: Mix,
        judge: Mix | None = None,
        draft: Draft,
        resume: bool = False,
        place: Place,
    ) -> None:
        self.config, self.scorer, self.judge, self.draft = config, scorer, judge, draft
        device, self.rank, self.world, autocast, precision = place
        rl = config.rl
        # of the reward, what the states of earlier versions name
        self.criterion = "val/loss" if rl.criterion == "reward" else _figure(rl.criterion)
        self.limits = {_figure(name): bound for name, bound in rl.limits.items()}
        self.ema_decay = rl.ema_decay
        self.model = start.to(device)
        self.adapted = None
        if rl.lora is not None:
            torch.manual_seed(config.seed)  # adapters begin with random numbers
            self.adapted = Adapted(self.model, rl.lora, rl.ldm_ckpt_path)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # with it the model would not be the policy that made the rollout
        train, val = start.vae.arranged(train, keep=True), start.vae.arranged(val, keep=True)
        multiple, graphs = config.data.pad_to_multiple, config.trainer.cuda_graphs
        given = (rl.guidance, rl.guidance_interval, multiple, autocast)
        self.policy = Policy(self.model, train, *given, graphs=graphs)
        self.judged = Policy(self.model, val, *given, graphs=graphs)
        diffusion = start.config.diffusion
        last = rl.ddpm_last_step
        self.reverse = ReverseDiffusion(
            diffusion, rl.sampler, device, self._window(0), ddpm_last_step=last
        )
        self.reverse.require_likelihood()
        self.judging_reverse = ReverseDiffusion(diffusion, rl.sampler, device)
        self.objective = self._objective(rl.micro_batch or self._micro_batch(), precision)
        self.notes_of = Notes(rl.rewards, draft.folder, resume=resume)
        self.seconds: dict[str, float] = {}

    @classmethod
    def start(cls, config: RLTrainConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        model = _start(config, context).to(context.accelerator.device)  # rewards use its VAE
        train, val = context.load(config.data)
        scored, judged = config.rl.rewards, config.rl.judges
        scorer = _scorer(scored, train, model.vae, context.accelerator, config.rl.combine)
        judge = _scorer(judged, train, model.vae, context.accelerator) if judged else None
        stage = cls(
            config,
            train,
            val,
            start=model,
            scorer=scorer,
            judge=judge,
            draft=context.draft,
            resume=context.resume,
            place=context.place,
        )
        if stage.adapted is not None:
            context.console.print(stage.adapted.summary())
        return stage

    def _objective(self, micro_batch: int, precision: str) -> Objective:
        rl = self.config.rl
        if rl.algorithm == "rejection":
            return Rejection(rl, self.policy, micro_batch)
        reference = None
        if rl.reference_kl:
            reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        exact = precision == "no" and self.policy.device.type == "cpu"
        return PolicyGradient(rl, self.policy, micro_batch, reference=reference, exact=exact)

    def _micro_batch(self) -> int:
        """Return how many pairs of crystal and step fit into memory at a time."""
        device, rl = self.policy.device, self.config.rl
        if device.type != "cuda":
            return CPU_PAIRS
        free, _ = torch.cuda.mem_get_info(device)
        per_token = ACTIVATION_BYTES * self.model.denoiser.kept_per_token
        tokens = min(MOST_TOKENS, int(0.5 * free / per_token))
        atoms = float(self.policy.source.num_atoms.float().mean())
        branches = 1 if rl.guidance in (None, 1) else 2  # both are kept for the backward pass
        return max(1, int(tokens / (atoms * branches)))

    def _window(self, update: int) -> range | None:
        """Return the steps that draw noise: they move on, and begin again at the end."""
        rl = self.config.rl
        if rl.window is None:
            return None
        places = rl.sampler.steps - rl.window  # the last step of a walk has no noise
        first = update // rl.window_every % places
        return range(first, first + rl.window)

    def steps_per_epoch(self) -> int:
        """See ``Stage``."""
        return self.config.rl.minibatches

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Piece]]:
        """Make and score the crystals of an update, and yield what is learned from them."""
        config, rl = self.config, self.config.rl
        begin = time.monotonic()
        window = self._window(epoch)
        if window is not None:
            self.reverse.move(window)
        prompts = draw_prompts(
            config.seed,
            epoch,
            groups=config.data.batch_size * self.world,
            group_size=rl.num_group_samples,
            crystals=len(self.policy.source),
            shared_noise=rl.shared_noise,
            rank=self.rank,
            world=self.world,
        )
        record = self.objective.learns_from_steps
        rollout = self.policy.roll_out(self.model, prompts, self.reverse, record=record)
        made = time.monotonic()
        scores = self.scorer.score(rollout.made.crystals, prompts.group)
        rewards = scores.total.float().cpu()
        symmetry = epoch % SYMMETRY_EVERY == 0
        self.notes_of.take(rollout.made.crystals, scores, symmetry=symmetry)
        self.learning = time.monotonic()
        self.seconds = {"rollout": made - begin, "rewards": self.learning - made}
        self.seconds |= {f"reward_{name}": value for name, value in scores.seconds.items()}
        self._draw(epoch, rollout.made.crystals, weighted(scores, rl.rewards).tolist())
        steps = self.objective.steps(rollout, rewards, self.reverse, self.model)
        for number, pieces in enumerate(steps):
            if number >= first_step:
                yield pieces

    def _draw(self, update: int, crystals: Crystals, rewards: list[float]) -> None:
        every = self.config.rl.pictures_every
        if self.rank == 0 and every and update % every == 0:
            for end, best in ("", True), ("-random", False):
                path = self.draft.path / PICTURES / f"update-{update:06d}{end}.png"
                draw_crystals(crystals, rewards, path, best=best)

    def loss(self, model: nn.Module, draw: Piece) -> dict[str, Tensor]:
        """See ``Stage``."""
        try:
            return self.objective.loss(model, draw)
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"not enough memory for {len(draw.values['weight'])} pairs of crystal and step at"
                " a time: set rl.micro_batch lower"
            ) from None

    def notes(self) -> dict[str, Any]:
        """See ``Stage``: what the last rollout was like."""
        found = self.notes_of.summary()
        if not found:
            return {}
        if isinstance(self.objective, PolicyGradient):
            found["train/ratio_off_by_most"] = self.objective.ratio_peak()
        self.seconds["learning"] = time.monotonic() - self.learning
        return {**found, **{f"seconds/{name}": value for name, value in self.seconds.items()}}

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return rewards and facts of crystals that are made from the same noise each time.

        They are of different sizes and count as one group.

        Raises:
            ConfigError: if the criterion or a limit is of none of these.
        """
        config, rl = self.config, self.config.rl
        prompts = draw_prompts(
            config.seed,
            -1,
            groups=rl.val_samples,
            group_size=1,
            crystals=len(self.judged.source),
            rank=rank,
            world=world,
        )
        if not len(prompts.crystals):
            return {}
        rollout = self.judged.roll_out(model, prompts, self.judging_reverse, record=False)
        crystals, group = rollout.made.crystals, torch.zeros_like(prompts.group)
        scores = self.scorer.score(crystals, group)
        sums = find_sums(scores, rl.rewards, crystals)
        if self.judge is not None:
            sums |= self._judged(scores, self.judge.score(crystals, group))
        found = {
            f"val/{name.removeprefix('rollout/')}": (value.total, value.number)
            for name, value in sums.items()
        }
        total, number = found["val/reward"]
        found["val/loss"] = -total, number
        for name in (rl.criterion, *rl.limits):
            if _figure(name).removeprefix("-") not in found:
                raise ConfigError(
                    f"{name} of rl.criterion or rl.limits is no figure of validation: there are"
                    f" {', '.join(sorted(key.removeprefix('val/') for key in found))}"
                )
        return found

    def _judged(self, scores: Scores, judged: Scores) -> dict[str, Sums]:
        """Return the judges' rewards, and facts of their energies and of what the rewards found of
        uniqueness and novelty, but for those that are the rewards' own."""
        lent = {name: scores.facts[name] for name in ("unique", "novel") if name in scores.facts}
        both = judged._replace(facts={**lent, **judged.facts})
        sums = find_sums(both, self.config.rl.judges)
        del sums["rollout/reward"]
        for name in {"valid", *lent} - (judged.facts.keys() - {"valid"}):
            sums.pop(f"fact/{name}", None)
        return {
            f"judge/{name.removeprefix('fact/')}" if name.startswith("fact/") else name: value
            for name, value in sums.items()
        }

    def finish(self, context: RunContext, *, interrupted: bool) -> None:
        """See ``Stage``: writes the report."""
        given = self.model.vae.config.kind == "csp"
        path, cautions = write_report(self.config, context.draft.folder, compositions_given=given)
        for text in cautions:
            context.console.print(f"warning: {text}")
        context.console.print(f"report: {path}")

    def _content(self) -> dict[str, Any]:
        data = self.config.data.facts(trained_on(self.model.origin))
        facts = (self.model.origin.get("data") or {}).get("conditions")
        if facts:  # units, ranges and classes stay those that the model was trained with
            data["conditions"] = facts
        content = {**self.model.architecture(), "data": data}
        rewarded = {*(self.model.origin.get("rewarded_by") or ()), *self.scorer.judges}
        if self.judge is not None:  # it chose the model
            rewarded |= {*self.judge.judges}
        if rewarded:  # an evaluation must know whom the model has learned to please
            content["rewarded_by"] = sorted(rewarded)
        return content


def _start(config: RLTrainConfig, context: RunContext) -> LatentDiffusion:
    """Return the model to be tuned; a resumed run begins with the one it began with."""
    source = context.initial if context.resume else config.rl.ldm_ckpt_path
    if source is None:
        raise ConfigError(
            "rl.ldm_ckpt_path is not set: name the folder of a trained LDM, for example"
            " rl.ldm_ckpt_path=runs/my_ldm"
        )
    model = LatentDiffusion.from_pretrained(source)
    wanted = model.config.conditions
    if config.rl.guidance is not None and not wanted:
        raise ConfigError(
            f"rl.guidance={config.rl.guidance} needs a conditional model, and"
            f" {config.rl.ldm_ckpt_path} is unconditional: leave it out"
        )
    missing = [
        f"condition {name} of {source} needs column '{condition.column}'"
        for name, condition in wanted.items()
        if condition.column is not None and condition.column not in config.data.targets
    ]
    if missing:
        raise ConfigError(f"{'; '.join(missing)}: add it to data.targets")
    # what is tuned is what this walk makes, so that is how it should be sampled
    model.config = model.config.model_copy(update={"sampler": config.rl.sampler})
    return model


def _figure(wanted: str) -> str:
    """Return the name of a figure as a ``Stage`` has it: to fall, or to grow behind a minus."""
    return f"val/{wanted[1:]}" if wanted.startswith("-") else f"-val/{wanted}"


def _scorer(
    configs: Mapping[str, RewardConfig],
    train: Crystals,
    vae: CrystalVAE,
    accelerator: Accelerator,
    combine: Combine = "sum",
) -> Mix:
    """Return the rewards; crystals are new if they are not among the training crystals."""
    # processes of one machine share its cores
    cores = max(1, worker_count() // accelerator.num_processes)
    device = accelerator.device
    # the first process makes and caches a hull, the others read the cache
    with accelerator.main_process_first():
        return Mix(configs, reference=train, device=device, jobs=cores, vae=vae, combine=combine)
