"""What a denoiser is told of conditions in training, and that it learns to follow them."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY_LDM, demo_crystals
from rich.console import Console
from test_conditions import CONDITIONS

from chemeleon.config.presets import load
from chemeleon.errors import DataError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.storage import Draft
from chemeleon.training.launch import RUN_PARTS
from chemeleon.training.stage import Place


def test_gaps_in_a_column_hide_the_condition(tiny_vae, tmp_path):
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.training.ldm import LDMStage

    crystals = demo_crystals("train").subset(torch.arange(40))
    density = crystals.targets["density"].clone()
    density[::2] = float("nan")
    crystals.targets["density"] = density
    words = [*TINY_LDM, CONDITIONS, "ldm.condition_drop=0.0"]
    config = load("ldm", "demo/null", None, words).config
    vae = CrystalVAE.from_pretrained(tiny_vae)
    stage = LDMStage(config, crystals, crystals, vae=vae, place=Place(torch.device("cpu")))
    encoder = stage.model.denoiser.conditions
    assert encoder is not None
    assert encoder["density"].mean == pytest.approx(float(density[1::2].mean()), rel=1e-5)
    told = {}
    forward = encoder.forward

    def spy(features, drop):
        told.update(features=features, drop=drop)
        return forward(features, drop)

    encoder.forward = spy
    draw = next(iter(stage.batches(0, 0)))[0]
    terms = stage.loss(stage.model, draw)
    assert torch.isfinite(terms["loss"])
    gaps = draw.gather().crystals.targets["density"].isnan()
    assert torch.equal(told["drop"]["density"], gaps)
    assert torch.isfinite(told["features"]["density"]).all()
    assert not told["drop"]["what"].any()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fitted", [False, True])
def test_classes_that_do_not_fit_are_refused_in_words(tiny_vae, split, fitted):
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.training.ldm import LDMStage

    def crystals(largest):
        some = demo_crystals("train").subset(torch.arange(8))
        some.targets["density"] = torch.tensor([0.0, 1, 2, float("nan"), 0, 1, 2, largest])
        return some

    words = [*TINY_LDM, "ldm.conditions={kind: {kind: category, column: density, categories: 3}}"]
    config = load("ldm", "demo/null", None, words).config
    models = {"vae": CrystalVAE.from_pretrained(tiny_vae), "place": Place(torch.device("cpu"))}
    if fitted:
        models["start"] = LDMStage(config, crystals(2), crystals(2), **models).model
    data = [crystals(5 if name == split else 2) for name in ("train", "val")]
    with pytest.raises(DataError, match=r"'density' has values from 0 to 5; .*from 0 to 2"):
        LDMStage(config, *data, **models)


def test_all_conditions_are_hidden_together_often_enough(tiny_vae):
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.training.ldm import LDMStage

    crystals = demo_crystals("train")
    words = [*TINY_LDM, CONDITIONS, "data.batch_size=2000"]
    config = load("ldm", "demo/null", None, words).config
    vae = CrystalVAE.from_pretrained(tiny_vae)
    stage = LDMStage(config, crystals, crystals, vae=vae, place=Place(torch.device("cpu")))
    told = []
    encoder = stage.model.denoiser.conditions
    forward = encoder.forward
    encoder.forward = lambda features, drop: told.append(drop) or forward(features, drop)
    stage.loss(stage.model, next(iter(stage.batches(0, 0)))[0])
    flags = torch.stack(list(told[0].values())).float()
    # each hidden with 1 - 0.8^2, all with 0.2 + 0.8 * 0.2^3
    assert flags.mean(1).tolist() == pytest.approx([0.36] * 3, abs=0.04)
    assert float(flags.prod(0).mean()) == pytest.approx(0.206, abs=0.03)


def test_a_trained_model_makes_what_is_asked_for(tmp_path, tiny_vae):
    """Four crystals of one size, one class each: latents come out beside the class asked for."""
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.training.ldm import LDMStage
    from chemeleon.training.loop import fit
    from chemeleon.training.run import Run, make_accelerator
    from chemeleon.training.stage import RunContext

    everything = demo_crystals("train")
    pairs = torch.nonzero(everything.num_atoms == 2).flatten()
    four = everything.subset(pairs[torch.tensor([0, 20, 40, 60])].repeat(8))
    four.targets["density"] = torch.arange(4.0).repeat(8)
    words = [*TINY_LDM, "ldm.denoiser.width=64", "ldm.sample_posterior=false"]
    words += ["ldm.conditions={kind: {kind: category, column: density, categories: 4}}"]
    words += ["data.augment.rotate=false", "data.augment.translate=false", "optim.lr=3e-3"]
    words += ["optim.warmup_steps=10", "trainer.max_steps=200", "trainer.val_every_steps=200"]
    words += ["trainer.max_minutes=2", "ldm.ema_decay=0.98", "ldm.diffusion.prediction=v"]
    config = load("ldm", "demo/null", None, words).config
    console = Console(quiet=True)
    accelerator = make_accelerator(config.trainer, tmp_path, console)
    context = RunContext(Draft(tmp_path, RUN_PARTS), accelerator, console, resume=False)
    vae = CrystalVAE.from_pretrained(tiny_vae)
    stage = LDMStage(config, four, four, vae=vae, place=Place(accelerator.device))
    fit(Run(stage, config, context))
    pipeline = Pipeline.from_pretrained(tmp_path, "cpu")
    centres = pipeline.model.vae.encode(four.batch(torch.arange(4))).mean.flatten(1)
    found = {}
    decode = type(pipeline.model.vae).decode

    def keep(self, z, batch):
        found["z"] = z
        return decode(self, z, batch)

    type(pipeline.model.vae).decode = keep
    try:
        asked = [i % 4 for i in range(64)]
        pipeline.generate(64, conditions={"kind": asked}, guidance=2.0, num_atoms=[2])
    finally:
        type(pipeline.model.vae).decode = decode
    nearest = torch.cdist(found["z"].flatten(1), centres).argmin(1)
    right = (nearest == torch.tensor(asked)).float().mean()
    assert right > 0.8, right  # chance is 0.25
