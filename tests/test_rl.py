"""Reinforcement learning: what an update learns from, runs that stop and go on, what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import ANY_FORM, ANY_FORM_VAE, EPSILON, TINY_LDM, TINY_VAE
from rl_helpers import WORDS, Share, config, second_element, stage, train
from test_training import assert_same_run, interrupt_at, metrics
from typer.testing import CliRunner

from chemeleon import api
from chemeleon.checkpoints.card import trained_on
from chemeleon.checkpoints.store import read_state
from chemeleon.cli.app import app
from chemeleon.config import presets
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.config.schema import RLTrainConfig
from chemeleon.diffusion.reverse import ReverseDiffusion
from chemeleon.errors import ConfigError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.reinforcement import objectives
from chemeleon.reinforcement.objectives import PolicyGradient
from chemeleon.reinforcement.rewards.mix import Scores
from chemeleon.reinforcement.rl import RLStage
from chemeleon.reinforcement.rollout import draw_prompts


@pytest.fixture(scope="module")
def plain_vae(tmp_path_factory) -> Path:
    """One whose few steps of training leave some elements frequent, which the toy reward needs."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    api.vae_train("demo/dng", [*TINY_VAE, *ANY_FORM_VAE, "trainer.max_steps=20"], output=folder)
    return folder


@pytest.fixture(scope="module")
def small_ldm(plain_vae, tmp_path_factory) -> Path:
    """A model that has learned a little, so that its walks stay where latents are."""
    folder = tmp_path_factory.mktemp("runs") / "ldm"
    words = [*TINY_LDM, *EPSILON, *ANY_FORM]
    words += ["trainer.max_steps=120", f"ldm.vae_ckpt_path={plain_vae}"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


@pytest.fixture(scope="module")
def conditional_ldm(tiny_vae, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    words = [*TINY_LDM, *EPSILON, "trainer.max_steps=10", f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.conditions={density: {kind: number, column: density}}"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


def gradients(found: RLStage, update: int = 0, minibatch: int = 0) -> tuple[dict, torch.Tensor]:
    """Return the summed terms and the gradient of one optimizer step."""
    found.model.zero_grad()
    steps = list(found.batches(update, 0))
    sums: dict[str, float] = {}
    for piece in steps[minibatch]:
        terms = found.loss(found.model, piece)
        (terms["loss"] / len(steps[minibatch])).backward()
        for name, value in terms.items():
            share = float(value.detach()) / len(steps[minibatch])
            sums[name] = sums.get(name, 0.0) + share
    parts = [p.grad.flatten() for p in found.model.parameters() if p.grad is not None]
    return sums, torch.cat(parts)


# --- the first update

VARIANTS = {
    "ddim": [],
    "ddpm": ["rl.sampler={scheduler: ddpm, steps: 5}"],
    "ddpm, last step": ["rl.sampler={scheduler: ddpm, steps: 5}", "rl.ddpm_last_step=true"],
    "window": ["rl.window=2", "rl.window_every=1"],
    "reference": ["rl.reference_kl=0.5"],
    "per crystal": ["rl.likelihood=per_crystal"],
    "shared noise": ["rl.shared_noise=true"],
}


@pytest.mark.parametrize("words", VARIANTS.values(), ids=VARIANTS)
def test_the_ratio_of_the_first_update_is_1(small_ldm, words):
    found = stage(small_ldm, *words)
    # a sum over all entries of a crystal has their number of times the rounding
    summed = "per_crystal" in str(words)
    for minibatch in range(2):  # no step is taken between them here
        terms, _ = gradients(found, minibatch=minibatch)
        assert terms["ratio"] == pytest.approx(1, abs=1e-4 if summed else 1e-5)
        assert terms["kl"] == pytest.approx(0, abs=1e-6)
        assert terms.get("reference_kl", 0.0) == pytest.approx(0, abs=1e-6)
    assert isinstance(found.objective, PolicyGradient)
    assert found.objective.ratio_peak() < (1e-3 if summed else 1e-5)


@pytest.mark.parametrize("guidance", ["null", "2.0", "0.0"])
def test_conditions_and_guidance_are_part_of_the_policy(conditional_ldm, guidance):
    words = ["data.targets=[density]", f"rl.guidance={guidance}"]
    found = stage(conditional_ldm, *words)
    terms, gradient = gradients(found)
    assert terms["ratio"] == pytest.approx(1, abs=1e-5)
    assert gradient.norm() > 0
    encoder = found.model.denoiser.conditions.encoders["density"]
    assert bool(encoder.null.grad.abs().sum() > 0) == (guidance != "null")


INTERVAL = ["rl.guidance=2.0", "rl.guidance_interval=[0.3, 0.7]"]


@pytest.fixture(scope="module")
def remembering_ldm(tiny_vae, tmp_path_factory) -> Path:
    """A conditional model with self-conditioning."""
    folder = tmp_path_factory.mktemp("runs") / "remembering"
    words = [*TINY_LDM, "trainer.max_steps=40", f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.conditions={density: {kind: number, column: density}}"]
    words += ["ldm.diffusion.prediction=v", "ldm.diffusion.learned_variance=false"]
    words += ["ldm.denoiser.self_conditioning=true"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


@pytest.mark.parametrize("words", [INTERVAL[:1], INTERVAL, []], ids=["all", "interval", "none"])
def test_what_sampling_takes_a_rollout_takes(remembering_ldm, words):
    """A trajectory that is learned from is the one of `sample`, estimates and interval included."""
    found = stage(remembering_ldm, "data.targets=[density]", *words)
    for minibatch in range(2):
        terms, gradient = gradients(found, minibatch=minibatch)
        assert terms["ratio"] == pytest.approx(1, abs=1e-5)
        assert gradient.norm() > 0
    pieces = [piece for step in found.batches(0, 0) for piece in step]
    given = [
        value for piece in pieces for name, value in piece.values.items() if "estimate" in name
    ]
    assert len(given) == len(pieces) * (2 if words else 1)
    assert max(float(value.abs().max()) for value in given) > 0
    assert isinstance(found.objective, PolicyGradient)
    assert found.objective.ratio_peak() < 1e-5
    # without them, or guided all along, the likelihoods are others
    piece = pieces[0]
    hidden = {k: v * 0 if "estimate" in k else v for k, v in piece.values.items()}
    found.loss(found.model, piece._replace(values=hidden))
    assert found.objective.ratio_peak() > 1e-4
    if words == INTERVAL:
        found.policy.interval = (0.0, 1.0)
        found.loss(found.model, piece)
        assert found.objective.ratio_peak() > 1e-5


def test_the_best_crystals_of_a_remembering_model_are_learned(remembering_ldm, tmp_path):
    words = ["data.targets=[density]", "rl.algorithm=rejection", "trainer.max_epochs=1"]
    run = train(tmp_path / "run", remembering_ldm, *words)
    assert run.fitted.step == 2
    assert all(
        math.isfinite(row["train/loss"]) for row in metrics(run.folder) if "train/loss" in row
    )


def test_what_is_known_of_conditions_is_kept(conditional_ldm, tmp_path):
    words = ["data.targets=[density]", "trainer.max_epochs=1"]
    train(tmp_path / "run", conditional_ldm, *words)
    train(tmp_path / "run", None, "trainer.max_epochs=2", resume=True)
    first, tuned = (LatentDiffusion.from_pretrained(p) for p in (conditional_ldm, tmp_path / "run"))
    assert first.origin["data"]["conditions"]["density"]
    assert tuned.origin["data"]["conditions"] == first.origin["data"]["conditions"]


def test_old_probabilities_can_be_computed_again(small_ldm):
    plain, expected = gradients(stage(small_ldm), minibatch=1)
    again, found = gradients(stage(small_ldm, "rl.old_log_probs=recompute"), minibatch=1)
    assert again == pytest.approx(plain, abs=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_micro_batches_only_divide_the_work(small_ldm, size):
    words = ["rl.reference_kl=0.1", "data.pad_to_multiple=4"]
    plain, expected = gradients(stage(small_ldm, *words))
    cut = stage(small_ldm, *words, f"rl.micro_batch={size}")
    divided, found = gradients(cut)
    assert divided == pytest.approx(plain, abs=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-6)
    pieces = next(cut.batches(0, 0))
    assert max(len(piece.values["weight"]) for piece in pieces) <= size
    assert len(pieces) >= math.ceil(4 * 4 / size)  # 4 crystals of a minibatch x 4 noisy steps


def test_flat_groups_push_nowhere_and_can_be_left_out(small_ldm, monkeypatch):
    class Flat(Share):
        def score(self, crystals, group):
            found = super().score(crystals, group)
            return found._replace(total=torch.where(group == 0, 1.0, torch.arange(8.0)))

    def terms(*words: str) -> dict[str, float]:
        found = stage(small_ldm, "rl.entropy_weight=1.0", *words)
        found.scorer = Flat()
        return gradients(found)[0]

    kept, dropped = terms(), terms("rl.filter_zero_variance=true")
    assert kept["ratio"] == pytest.approx(1, abs=1e-5)  # its weights are those of a mean
    assert dropped["ratio"] == pytest.approx(1, abs=1e-5)
    assert kept["entropy"] != pytest.approx(dropped["entropy"], abs=1e-4)
    # another process kept all its groups: each of the three has a third of the say
    monkeypatch.setattr(objectives, "reduce", lambda share, how: (share + 1) / 2)
    shared = terms("rl.filter_zero_variance=true")
    assert shared["ratio"] == pytest.approx(0.5 / 0.75, abs=1e-5)


# --- rollouts


def test_a_rollout_does_not_depend_on_the_number_of_processes(small_ldm):
    class Spy(Share):
        def score(self, crystals, group):
            self.seen = crystals
            return super().score(crystals, group)

    def crystals(rank: int, world: int, groups: int):
        found = stage(small_ldm, f"data.batch_size={groups}", rank=rank, world=world)
        found.scorer = Spy()
        next(found.batches(3, 0))
        return found.scorer.seen

    one = crystals(0, 1, 4)
    for rank in range(2):
        part = crystals(rank, 2, 2)
        groups = [rank, rank + 2]  # every second one
        mine = one.subset(torch.cat([torch.arange(4) + 4 * g for g in groups]))
        assert part.num_atoms.tolist() == mine.num_atoms.tolist()
        assert part.atomic_numbers.tolist() == mine.atomic_numbers.tolist()
        torch.testing.assert_close(part.lattice, mine.lattice, rtol=1e-3, atol=1e-3)


def test_groups_share_what_is_asked_for_and_if_wanted_the_noise():
    options = {"groups": 3, "group_size": 4, "crystals": 1000}
    prompts = draw_prompts(1, 5, **options)
    assert prompts.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(prompts.crystals.unique()) == 3
    assert len(prompts.keys.unique()) == len(prompts.start_keys.unique()) == 12
    shared = draw_prompts(1, 5, **options, shared_noise=True)
    assert torch.equal(shared.keys, prompts.keys)
    assert len(shared.start_keys.unique()) == 3
    other = draw_prompts(1, 6, **options)
    assert not torch.equal(other.crystals, prompts.crystals)


def test_the_window_moves_and_begins_again(small_ldm):
    found = stage(small_ldm, "rl.window=2", "rl.window_every=3")
    assert [list(found._window(u)) for u in (0, 2, 3, 6, 9)] == [
        [0, 1], [0, 1], [1, 2], [2, 3], [0, 1],
    ]  # fmt: skip
    for pieces in found.batches(6, 0):
        assert {int(s) for piece in pieces for s in piece.values["step"]} == {2, 3}


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("published", [False, True])
def test_the_steps_that_enter_an_update(small_ldm, scheduler, published):
    """All that draw noise, and as published the last one of ddpm, too."""
    found = stage(small_ldm, f"rl.sampler={{scheduler: {scheduler}, steps: 5}}")
    preset = presets.load("rl", "mp/dng_published" if published else "mp/dng").config.rl
    last = preset.ddpm_last_step
    diffusion, sampler = found.model.config.diffusion, found.config.rl.sampler
    found.reverse = ReverseDiffusion(diffusion, sampler, ddpm_last_step=last)
    pieces = next(found.batches(0, 0))
    steps = torch.cat([piece.values["step"] for piece in pieces])
    real = torch.cat([piece.values["weight"] for piece in pieces]) > 0
    count = 5 if published and scheduler == "ddpm" else 4
    assert sorted(set(steps[real].tolist())) == list(range(count))
    assert int(real.sum()) == 4 * count  # crystals of a minibatch x steps


@pytest.mark.parametrize(("algorithm", "recorded"), [("grpo", [True]), ("rejection", [])])
def test_walks_are_kept_whole_only_to_learn_from_their_steps(
    small_ldm, monkeypatch, algorithm, recorded
):
    found, kept = stage(small_ldm, f"rl.algorithm={algorithm}"), []
    trajectory = ReverseDiffusion.trajectory

    def spy(self, *given):
        kept.append(True)
        return trajectory(self, *given)

    monkeypatch.setattr(ReverseDiffusion, "trajectory", spy)
    next(found.batches(0, 0))
    assert kept == recorded
    found.evaluate(found.model, 0, 1)
    assert kept == recorded


# --- learning


@pytest.mark.parametrize(
    ("algorithm", "rate", "reached"), [("grpo", 1e-3, 0.8), ("rejection", 4e-3, 0.4)]
)
def test_a_reward_whose_optimum_is_1_rises(small_ldm, tmp_path, algorithm, rate, reached):
    element = second_element(small_ldm)
    words = ["rl.num_group_samples=16", "trainer.max_epochs=30"]
    words += ["rl.clip_ratio=0.2"] if algorithm == "grpo" else []
    words += [f"rl.algorithm={algorithm}", f"optim.lr={rate}", "trainer.val_every_epochs=10"]
    train(tmp_path / "run", small_ldm, *words, element=element)
    made = [row["rollout/reward"] for row in metrics(tmp_path / "run") if "rollout/reward" in row]
    assert made[0] < 0.3
    assert max(made) > reached
    sampler = config().rl.sampler
    tuned = Pipeline.from_pretrained(tmp_path / "run", "cpu").generate(64, seed=3, sampler=sampler)
    assert float((tuned.atomic_numbers == element).float().mean()) > 0.7 * reached


# --- runs


def same_but_for_times(one: Path, other: Path) -> None:
    for folder in (one, other):
        path = folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert_same_run(one, other)


def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(small_ldm, tmp_path):
    import shutil

    shutil.copytree(small_ldm, tmp_path / "base")
    words = ["trainer.max_epochs=6", "trainer.val_every_epochs=4", "rl.reference_kl=0.1"]
    words += ["rl.ema_decay=0.5", "rl.window=2", "rl.window_every=2"]
    train(tmp_path / "whole", small_ldm, *words)

    def start(preset: str, settings: list[str], output: Path):
        return train(output, tmp_path / "base", *settings)

    # step 5 is the first one of the third update, which is finished first
    interrupt_at(5, tmp_path / "parts", start, "demo/dng", words)
    assert read_state(tmp_path / "parts")[1]["step"] == 6
    shutil.rmtree(tmp_path / "base")  # a resumed run needs its own folder alone
    train(tmp_path / "parts", None, resume=True)
    same_but_for_times(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stage", ["rl", "ldm"])
def test_a_tuned_model_names_the_sets_of_all_its_trainings(small_ldm, tmp_path, stage):
    base = tmp_path / "base"
    LatentDiffusion.from_pretrained(small_ldm).save_pretrained(base)
    said = yaml.safe_load((base / "config.yaml").read_text(encoding="utf-8"))
    said["data"] |= {"name": "first", "also": ["second"]}
    (base / "config.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    if stage == "rl":
        train(tmp_path / "run", base, "trainer.max_epochs=1")
    else:
        words = [
            *TINY_LDM,
            *EPSILON,
            *ANY_FORM,
            f"ldm.init_ckpt_path={base}",
            "trainer.max_steps=1",
        ]
        api.ldm_train("demo/null", words, output=tmp_path / "run")
    tuned = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert trained_on(tuned.origin) == ["demo", "first", "second"]


def test_a_run_ends_with_an_update(small_ldm, tmp_path):
    result = train(tmp_path / "run", small_ldm, "trainer.max_steps=3", "trainer.max_epochs=null")
    assert result.fitted.step == 4
    assert result.fitted.complete


def test_a_run_leaves_numbers_pictures_a_report_and_a_model(small_ldm, tmp_path):
    folder = tmp_path / "run"
    train(folder, small_ldm, "trainer.max_epochs=3", "rl.pictures_every=2")
    rows = metrics(folder)
    updates = [row for row in rows if "formulas" in row]
    assert [row["epoch"] for row in updates] == [1, 2, 3]
    wanted = {"rollout/reward", "rollout/share", "rollout/share_std", "rollout/share_failed"}
    wanted |= {"fact/valid", "rollout/element_drift", "train/ratio", "train/clipped"}
    wanted |= {"train/kl", "train/entropy", "train/ratio_off_by_most", "seconds/rollout"}
    assert wanted <= updates[0].keys()
    assert updates[0]["rollout/element_drift"] == 0
    assert all(0 < len(row["formulas"]) <= 10 for row in updates)
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == [
        "update-000000-random.png", "update-000000.png",
        "update-000002-random.png", "update-000002.png",
    ]  # fmt: skip
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert text.count("data:image/png;base64,") == 4
    assert text.index("update 0, best") < text.index("update 0, random")
    assert 0 <= updates[0]["fact/p1"] <= 1
    assert "fact/p1" not in updates[1]  # of every fifth update
    assert next(iter(updates[0]["formulas"])) in text
    tuned = LatentDiffusion.from_pretrained(folder)
    start = LatentDiffusion.from_pretrained(small_ldm)
    assert tuned.origin["rewarded_by"] == ["a test"]  # whom an evaluation must not let judge
    assert "rewarded_by" not in start.origin
    assert trained_on(tuned.origin) == ["demo"]
    walk = tuned.config.sampler
    assert (walk.steps, walk.temperature) == (5, 1.0)  # that of the rollouts
    assert tuned.config == start.config.model_copy(update={"sampler": walk})
    assert not torch.equal(tuned.denoiser.head.weight, start.denoiser.head.weight)
    for name, value in tuned.vae.state_dict().items():
        assert torch.equal(value, start.vae.state_dict()[name])


class Judged(Share):
    """Says that a crystal's energy above hull is minus its share of an element."""

    judges = ("another test",)

    def score(self, crystals, group):
        found = super().score(crystals, group)
        share = found.raw["share"]
        facts = {"unique": share >= 0, "novel": share >= 0, "e_hull": -share}
        return found._replace(raw={"other": share}, facts=facts)


def judged_run(folder: Path, model: Path, *words: str, judge: type[Judged] = Judged):
    """Train with a reward for one element and a judge who likes it; return run and metrics."""
    element = second_element(model)
    scorers = [Share(element), judge(element)]
    words = ("rl.judges={other: {reward: validity}}", "trainer.val_every_epochs=1", *words)
    words += ("rl.ema_decay=0", "rl.num_group_samples=16", "optim.lr=1e-3", "rl.clip_ratio=0.2")
    with mock.patch("chemeleon.reinforcement.rl._scorer", side_effect=scorers):
        path = f"rl.ldm_ckpt_path={model}"
        result = api.rl_train("demo/dng", [*WORDS, path, *words], output=folder)
    return result, [row for row in metrics(folder) if "val/reward" in row]


def test_a_judge_scores_validation_crystals_and_nothing_is_learned_from_it(small_ldm, tmp_path):
    _, rows = judged_run(tmp_path / "run", small_ldm, "trainer.max_epochs=2")
    for row in rows:
        assert row["val/other"] == pytest.approx(row["val/share"])
        assert row["val/judge/e_hull"] == pytest.approx(-row["val/share"])
        assert row["val/judge/msun"] == 1
        assert 0 <= row["val/fact/p1"] <= 1
        assert "val/fact/valid" in row
        assert "val/judge/valid" not in row  # the rewards' own
    plain = [row for row in metrics(tmp_path / "run") if "formulas" in row]
    assert not [name for name in plain[0] if "other" in name or "judge" in name]
    tuned = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert tuned.origin["rewarded_by"] == ["a test", "another test"]
    assert "What the judges say" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_judge_without_energies_says_nothing_of_stability(small_ldm):
    """What it does not find is not filled with the energies of the rewards."""
    found = stage(small_ldm, "rl.judges={other: {reward: validity}}")
    ones = torch.ones(2)
    facts = {"valid": ones, "unique": ones, "novel": ones, "e_hull": -ones}
    of_rewards = Scores(ones, {"share": ones}, {}, facts, {})
    of_judge = Scores(ones, {"other": ones}, {}, {"valid": ones, "gap": 2 * ones}, {})
    assert {*found._judged(of_rewards, of_judge)} == {"rollout/other", "judge/gap"}
    of_judge.facts["e_hull"] = ones
    told = found._judged(of_rewards, of_judge)
    assert told["judge/e_hull"].mean == 1
    assert told["judge/msun"].mean == 0


class UnknownAtFirst(Judged):
    """Knows no energy of the first validation."""

    first = True

    def score(self, crystals, group):
        found = super().score(crystals, group)
        if self.first:
            found.facts["e_hull"] = torch.full_like(found.facts["e_hull"], torch.nan)
        self.first = False
        return found


def test_a_figure_that_is_unknown_at_first_is_not_the_best_for_ever(small_ldm, tmp_path):
    words = ["trainer.max_epochs=3", "rl.criterion=-judge/e_hull"]
    result, rows = judged_run(tmp_path / "run", small_ldm, *words, judge=UnknownAtFirst)
    values = [row["val/judge/e_hull"] for row in rows]
    assert values[0] is None
    assert result.fitted.best == pytest.approx(min(values[1:]))


@pytest.mark.parametrize(
    ("criterion", "best"), [("-other", min), ("judge/e_hull", max), ("-val", None)]
)
def test_a_run_ends_when_a_chosen_figure_no_longer_improves(small_ldm, tmp_path, criterion, best):
    """The reward grows, so that its opposite is at its best early."""
    words = ["trainer.max_epochs=30", "trainer.patience=3", f"rl.criterion={criterion}"]
    if best is None:
        with pytest.raises(ConfigError, match="no figure of validation: reward, share, other"):
            judged_run(tmp_path / "run", small_ldm, *words)
        return
    result, rows = judged_run(tmp_path / "run", small_ldm, *words)
    name = f"val/{criterion.removeprefix('-')}"
    values = [row[name] for row in rows]
    assert result.fitted.complete
    assert len(rows) < 30
    at = values.index(best(values))
    assert len(rows) == at + 1 + 3
    assert result.fitted.best == pytest.approx(values[at] if best is min else -values[at])
    config_of = read_yaml(tmp_path / "run" / "best" / "config.yaml")
    assert config_of["trained"]["steps"] == rows[at]["step"]


@pytest.mark.parametrize("word", ["rl.criterion=fact/msun", "rl.limits={fact/msun: 0.1}"])
def test_a_figure_that_no_reward_finds_is_named_with_those_that_are(small_ldm, word):
    found = stage(small_ldm, word)
    said = r"fact/msun of rl\.criterion or rl\.limits .*there are fact/p1, fact/valid"
    with pytest.raises(ConfigError, match=said):
        found.evaluate(found.model, 0, 1)


@pytest.mark.parametrize("sign", ["-", ""])
def test_a_run_ends_at_a_limit_and_keeps_the_best_within_it(small_ldm, tmp_path, sign, capsys):
    """The share of the rewarded element grows, and so its opposite, e_hull of the judge, falls."""
    name, bound, first_beyond = ("other", 0.5, max) if sign else ("judge/e_hull", -0.5, min)
    words = ["trainer.max_epochs=30", f"rl.limits={{{sign}{name}: {bound}}}"]
    result, rows = judged_run(tmp_path / "run", small_ldm, *words)
    values = [row[f"val/{name}"] for row in rows]
    within = [value <= bound if sign else value >= bound for value in values]
    assert within == [True] * (len(rows) - 1) + [False]
    assert first_beyond(values) == values[-1]
    assert 1 < len(rows) < 30
    assert result.fitted.complete
    kept = read_yaml(tmp_path / "run" / "best" / "config.yaml")["trained"]["steps"]
    best = max(rows[:-1], key=lambda row: row["val/reward"])
    assert kept == best["step"] < rows[-1]["step"]
    assert result.fitted.best == pytest.approx(-best["val/reward"])
    assert f"ends here: val/{name} " in " ".join(capsys.readouterr().err.split())
    # it has ended: resuming does nothing
    with mock.patch("chemeleon.reinforcement.rl._scorer", side_effect=[Share(), Judged()]):
        again = api.rl_train(resume=tmp_path / "run")
    assert again.fitted.step == result.fitted.step
    assert "beyond a limit" in " ".join(capsys.readouterr().err.split())


# --- settings


def test_the_guides_names_work_and_faithful_settings_are_published():
    words = ["rl.ldm_ckpt_path=runs/x", "rl.num_group_samples=128", "data.batch_size=8"]
    found = presets.load("rl", "mp_20/dng", overrides=words).config
    assert (found.rl.num_group_samples, found.data.batch_size) == (128, 8)
    found = presets.load("rl", "mp_20/dng").config
    rl = found.rl
    ours = presets.load("rl", "mp/dng_published").config
    start = {"ldm_ckpt_path": rl.ldm_ckpt_path}
    assert ours.rl.model_copy(update=start) == rl
    assert (ours.optim, ours.data.batch_size) == (found.optim, found.data.batch_size)
    assert (found.data.batch_size, rl.num_group_samples, rl.minibatches) == (5, 64, 2)
    assert (found.optim.lr, found.trainer.clip_norm) == (1e-5, 1.0)
    assert (rl.clip_ratio, rl.kl_weight, rl.entropy_weight) == (1e-3, 1.0, 1e-5)
    assert (rl.kl_ratio, rl.ddpm_last_step) == ("old_over_new", True)
    assert list(rl.sampler.model_dump().values()) == ["ddim", 50, 1.0, 1.0, 0.0, 0]
    assert rl.ldm_ckpt_path == "${hub:mp_20_ldm_base}"
    weights = {name: (r.weight, r.normalise) for name, r in rl.rewards.items()}
    assert weights == {
        "creativity": (1.0, "none"),
        "energy": (1.0, "minmax"),
        "structure_diversity": (0.1, "minmax"),
        "composition_diversity": (1.0, "minmax"),
    }
    off = (rl.window, rl.shared_noise, rl.filter_zero_variance, rl.reference_kl, rl.guidance)
    assert off == (None, False, False, 0.0, None)


def test_what_is_published_alone_is_in_no_other_preset_and_in_no_old_run():
    for name in ("mp/dng", "demo/dng", "demo/custom_reward"):
        rl = presets.load("rl", name).config.rl
        assert (rl.kl_ratio, rl.ddpm_last_step) == ("new_over_old", False)
    # a run of before the two settings: as it was trained
    values = presets.load("rl", "mp/dng_published").config.model_dump(mode="json")
    for name in ("kl_ratio", "ddpm_last_step"):
        del values["rl"][name]
    rl = RLTrainConfig.model_validate(values).rl
    assert (rl.kl_ratio, rl.ddpm_last_step) == ("new_over_old", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rl.sampler.eta=0"], ["eta=0", "nothing to learn"]),
        (["rl.sampler.scheduler=unipc"], ["unipc", "ddim"]),
        (["rl.sampler.redraw=8"], ["sampler.redraw must be 0"]),
        (["rl.window=5"], ["window=5", "steps=5"]),
        (["rl.num_group_samples=5"], ["5", "minibatches=2"]),
        (["rl.rewards.share=null"], ["rl.rewards", "at least 1"]),
        (["trainer.val_every_steps=3"], ["val_every_epochs"]),
        (["rl.num_groups=3"], ["num_group_samples"]),
        (["rl.algorithm=rejection", "rl.guidance=2"], ["guidance", "algorithm=grpo"]),
        (
            ["rl.guidance=2", "rl.guidance_interval=[0.3, 0.32]"],
            ["none of the 5 denoising steps", "widen"],
        ),
        (["rl.guidance=2", "rl.guidance_interval=[0.5, 0.5]"], ["such as 0.2,0.8; got 0.5,0.5"]),
        (["rl.sampler={scheduler: ddpm, eta: 0.5}"], ["sampler.eta=0.5", "ddpm always draws"]),
        (["rl.rewards.share.within=batch"], ["rewards.share", "within=batch", "normalise=none"]),
        (["rl.top_fraction=0.5", "rl.noise_draws=2"], ["top_fraction, noise_draws", "grpo"]),
        (
            ["rl.algorithm=rejection", "rl.reference_kl=0.1", "rl.filter_zero_variance=true"],
            ["reference_kl, filter_zero_variance", "rejection"],
        ),
        (
            ["rl.algorithm=rejection", "rl.clip_ratio=0.1", "rl.entropy_weight=1e-5"],
            ["clip_ratio, entropy_weight would change nothing", "rejection"],
        ),
        (["rl.algorithm=rejection", "rl.kl_ratio=old_over_new"], ["kl_ratio", "rejection"]),
        (["rl.ddpm_last_step=true"], ["ddpm_last_step", "scheduler=ddim", "use ddpm"]),
        (["rl.window_every=3"], ["rl.window_every would change nothing", "set window"]),
        (["rl.judges.share.reward=validity"], ["judges.share", "rename"]),
        (["rl.criterion=msun"], ["criterion msun", "reward, share", "fact/NAME"]),
        (["rl.limits={-p1: 0.5}"], ["limits -p1", "reward, share", "fact/NAME"]),
        (["rl.rewards.loss.reward=validity"], ["rewards.loss", "rename"]),
        (["rl.rewards.share_std.reward=validity"], ["rewards.share_std", "rename"]),
    ],
)
def test_mistakes_are_named(words, said):
    with pytest.raises(ConfigError) as caught:
        config(*words)
    for word in said:
        assert word in str(caught.value)


def test_a_model_is_needed_and_guidance_needs_conditions(small_ldm, tmp_path):
    with pytest.raises(ConfigError, match=r"rl\.ldm_ckpt_path=runs/my_ldm"):
        train(tmp_path / "run", None, "rl.ldm_ckpt_path=null")
    with pytest.raises(ConfigError, match="unconditional"):
        train(tmp_path / "run", small_ldm, "rl.guidance=2.0")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_columns_of_the_models_conditions_must_be_read(conditional_ldm, tmp_path):
    with pytest.raises(ConfigError, match=r"column 'density': add it to data\.targets"):
        train(tmp_path / "run", conditional_ldm, "data.targets=[]")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_rewards_find_the_model_on_its_device(small_ldm, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def scorer(config, train, vae, accelerator, combine):
        assert {p.device for p in vae.parameters()} == {torch.device("meta")}
        raise Stopped

    monkeypatch.setattr("chemeleon.reinforcement.rl._scorer", scorer)
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))  # stands for a GPU
    with pytest.raises(Stopped):
        api.rl_train("demo/dng", [*WORDS, f"rl.ldm_ckpt_path={small_ldm}"], output=tmp_path / "r")


def test_the_command_shows_its_settings():
    words = ["rl", "train", "--preset", "mp_20/dng", "--show-config"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "rl.clip_ratio: 0.001" in result.output
    listed = CliRunner().invoke(app, ["rl", "presets"]).output
    assert "mp_20/dng" in listed
    assert "demo/dng" in listed
