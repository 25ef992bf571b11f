"""What only a GPU does: its own programs, recorded steps, a walk beside another thread."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from conftest import TINY_LDM, TINY_VAE
from rich.console import Console
from test_distributed import launcher
from torch import nn

from chemeleon import api
from chemeleon.crystals.convert import to_structures
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.attention import ragged_attention
from chemeleon.models.layers import ModulatedBlock
from chemeleon.models.modulation import fused
from chemeleon.models.packing import Layout
from chemeleon.models.replay import Replayed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
WIDTH, HEADS = 64, 4


def some_layout(*, packed: bool) -> tuple[Layout, torch.Tensor]:
    counts = torch.tensor([7, 3, 1, 5, 2, 20], device="cuda")
    mask = torch.arange(20, device="cuda") < counts.unsqueeze(-1)
    slots = torch.nonzero(mask.flatten()).squeeze(-1) if packed else None
    return Layout.from_mask(mask, counts, slots), mask


def test_attention_of_lists_is_that_of_padded_crystals():
    layout, mask = some_layout(packed=True)
    torch.manual_seed(0)
    padded = torch.randn(6, 20, 3 * WIDTH, device="cuda").bfloat16().float().requires_grad_()
    q, k, v = padded.view(6, 20, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=layout.keys)
    wanted = wanted.transpose(1, 2).flatten(2)
    weights = torch.randn_like(wanted) * mask.unsqueeze(-1)
    (expected,) = torch.autograd.grad((wanted * weights).sum(), padded)
    packed = layout.pack(padded).detach().bfloat16().requires_grad_()
    out = ragged_attention(packed, layout.starts, layout.counts, HEADS, layout.atoms)
    torch.testing.assert_close(out.float(), layout.pack(wanted), atol=2e-2, rtol=2e-2)
    (grad,) = torch.autograd.grad((out.float() * layout.pack(weights)).sum(), packed)
    torch.testing.assert_close(grad.float(), layout.pack(expected), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_joined_operations_give_the_ordinary_ones(packed, shared):
    layout, mask = some_layout(packed=packed)
    torch.manual_seed(0)
    block = ModulatedBlock(WIDTH, HEADS, 4 * WIDTH, 0.0).cuda().eval()
    nn.init.normal_(block.modulation.weight, std=0.5)
    x = layout.pack(torch.randn(6, 20, WIDTH, device="cuda"))
    condition = torch.randn(1 if shared else 6, WIDTH, device="cuda")
    exact = block(x, condition, layout).detach()
    with torch.autocast("cuda", torch.bfloat16):
        ordinary = block(x, condition, layout).detach()
        with torch.no_grad():
            assert fused(x)
            joined = block(x, condition, layout)
    real = slice(None) if packed else mask
    error = (joined - exact)[real].abs().mean()
    assert error < 1.2 * (ordinary - exact)[real].abs().mean()  # rounding, and no more of it
    assert error < 0.02 * exact[real].abs().mean()


def test_a_replayed_call_gives_what_the_ordinary_one_gives():
    layer = nn.Linear(8, 8).cuda()
    with torch.no_grad():
        replayed = Replayed(lambda z, t: (layer(z) * t, None))
        for step in range(6):
            z, t = torch.randn(4, 8, device="cuda"), torch.full((1,), float(step), device="cuda")
            out, _ = replayed(z, t)
            torch.testing.assert_close(out, layer(z) * t)
        assert replayed.graph is not None


def test_a_replayed_call_outlives_the_autocast_of_another_thread():
    """Leaving autocast throws away the rounded weights of all threads; a graph must not read them.

    The memory they leave is filled, as crystals that are relaxed beside the generation fill it.
    """

    def relaxation_beside_it():
        with torch.autocast("cuda", torch.bfloat16):
            pass

    layer = nn.Linear(512, 512).cuda()
    z = torch.randn(64, 512, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        replayed = Replayed(layer)
        for _ in range(3):
            wanted = replayed(z).clone()
        assert replayed.graph is not None
        thread = threading.Thread(target=relaxation_beside_it)
        thread.start()
        thread.join()
        filled = [torch.full((512, 512), torch.nan, device="cuda").bfloat16() for _ in range(64)]
        torch.testing.assert_close(replayed(z), wanted)
    assert len(filled) == 64


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    api.vae_train(
        "demo/dng", [*TINY_VAE, "trainer.max_steps=60"], output=folder / "vae", console=quiet()
    )
    words = [*TINY_LDM, "trainer.max_steps=60", f"ldm.vae_ckpt_path={folder / 'vae'}"]
    api.ldm_train("demo/null", words, output=folder / "ldm", console=quiet())
    return folder


def quiet() -> Console:
    return Console(quiet=True)


def test_a_stream_and_one_batch_give_the_same_crystals(models):
    pipeline = Pipeline.from_pretrained(models / "ldm")
    whole = pipeline.generate(64, precision="fp32")
    small = {}
    for numbers, crystals, *_ in pipeline.stream(64, precision="fp32", batch_size=16):
        small |= dict(zip(numbers.tolist(), to_structures(crystals), strict=True))
    for number, structure in enumerate(to_structures(whole)):
        assert structure.formula == small[number].formula
        torch.testing.assert_close(
            torch.tensor(structure.lattice.abc),
            torch.tensor(small[number].lattice.abc),
            rtol=2e-3,
            atol=2e-3,
        )


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize(
    "more", [[], ["data.augment.noise_angstrom=0.05"], ["trainer.grad_accumulation=2"]]
)
def test_recorded_steps_train_like_ordinary_ones(tmp_path, more):
    runs = {}
    for graphs in ("true", "false"):
        words = [*TINY_VAE, "trainer.max_steps=60", "trainer.log_every=5", *more]
        words += [f"trainer.cuda_graphs={graphs}", "trainer.precision=no"]
        console = Console(record=True, file=io.StringIO())
        api.vae_train("demo/dng", words, output=tmp_path / graphs, console=console)
        assert "cannot be recorded" not in console.export_text()
        runs[graphs] = torch.tensor(losses(tmp_path / graphs))
    torch.testing.assert_close(runs["true"], runs["false"], rtol=2e-3, atol=1e-4)


def test_a_step_that_cannot_be_recorded_goes_the_ordinary_way(tmp_path, monkeypatch):
    from chemeleon.training import vae

    def waiting(*arguments):
        terms = losses_of(*arguments)
        float(terms["loss"])  # waits for the device
        return terms

    losses_of = vae.vae_losses
    monkeypatch.setattr(vae, "vae_losses", waiting)
    console = Console(record=True, file=io.StringIO())
    words = [*TINY_VAE, "trainer.max_steps=20", "trainer.log_every=5"]
    api.vae_train("demo/dng", words, output=tmp_path / "run", console=console)
    assert "cannot be recorded" in console.export_text()
    assert len(losses(tmp_path / "run")) == 4


def test_a_predictor_trains_with_recorded_steps(tmp_path, models):
    words = ["trainer.tracker=none", "trainer.max_steps=40", "trainer.log_every=10"]
    words += ["predict.width=64"]
    words += [f"predict.vae_ckpt_path={models / 'vae'}", "data.batch_size=32"]
    console = Console(record=True, file=io.StringIO())
    api.predict_train("demo/density", words, output=tmp_path / "run", console=console)
    assert "cannot be recorded" not in console.export_text()
    assert losses(tmp_path / "run")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("precision", "near"), [("no", 2e-3), ("bf16", 2e-2)])
def test_two_gpus_train_like_one_with_the_doubled_batch(tmp_path, models, precision, near):
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={models / 'vae'}", "trainer.max_steps=40"]
    words += [f"trainer.precision={precision}", "trainer.log_every=5", "optim.lr=1e-4"]
    command = [*launcher(), "-m", "chemeleon", "ldm", "train", "--preset", "demo/null"]
    command += ["-o", str(tmp_path / "two"), *words, "data.batch_size=16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    api.ldm_train(
        "demo/null", [*words, "data.batch_size=32"], output=tmp_path / "one", console=quiet()
    )
    one, two = (torch.tensor(losses(tmp_path / name)) for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=near, atol=1e-4)
