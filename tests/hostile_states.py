"""Folders whose adapters or states of runs are hostile; see hostile_configs.py."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import torch
import yaml
from hostile_configs import CANARY, VAE, Hostile, Make, edit, put, write
from hostile_weights import EXTRA, WEIGHTS, Tensors, all_as, having, instead, weights
from safetensors import safe_open
from safetensors.torch import save_file

M, R = ("sample", "merge"), ("resume",)


def _chain(folder: Path) -> None:
    for number in range(300):
        copy = folder / f"a{number}"
        copy.mkdir()
        shutil.copy(folder / WEIGHTS, copy)
        shutil.copy(folder / "config.yaml", copy)
        edit(adapter__base=str(folder / f"a{number + 1}"))(copy)
    edit(adapter__base=str(folder / "a0"))(folder)


def _two(folder: Path) -> None:
    other = shutil.copytree(folder, folder.parent / f"{folder.name}_other")
    edit(adapter__base=str(other))(folder)
    edit(adapter__base=str(folder))(other)


def _factors(rank: int, rows: int = 64, columns: int = 32) -> Make:
    """Return what has an adapter of a rank on the first MLP."""

    def change(tensors: Tensors) -> None:
        name = next(n for n in sorted(tensors) if n.endswith("mlp.up.lora_A.weight"))
        tensors[name] = torch.zeros(rank, columns)
        tensors[name.replace("lora_A", "lora_B")] = torch.zeros(rows, rank)

    return weights(change)


def _state(counters: str | None) -> Make:
    """Return what replaces what a run's state says of where it was."""

    def make(folder: Path) -> None:
        path = folder / "state.safetensors"
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        path.unlink()
        save_file(tensors, path, None if counters is None else {"counters": counters})

    return make


def _counters(**values: object) -> Make:
    def make(folder: Path) -> None:
        with safe_open(folder / "state.safetensors", "pt") as file:
            counters = json.loads(file.metadata()["counters"])
        _state(json.dumps({**counters, **values}))(folder)

    return make


def _metrics(data: bytes) -> Make:
    def make(folder: Path) -> None:
        path = folder / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + data)

    return make


def _run_config(text: str) -> Make:
    return lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text() + text)


def _less(folder: Path, name: str) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["adapter"][name]
    path.write_text(yaml.safe_dump(config))


ADAPTERS: dict[str, Hostile] = {
    "adapters of themselves": Hostile("lora", lambda f: edit(adapter__base=str(f))(f), M),
    "adapters of here": Hostile("lora", edit(adapter__base="."), M),
    "two adapters of each other": Hostile("lora", _two, M),
    "300 adapters of each other": Hostile("lora", _chain, M),
    "adapters within their own base": Hostile("lora", lambda f: (
        (f / "init").symlink_to("."), (f / "best").symlink_to("."),
        edit(adapter__base=str(f / "best"))(f)), M),
    **{f"a base that is {name}": Hostile("lora", edit(adapter__base=value), M)
       for name, value in {"a list": [1], "null": None, "a number": 7, "empty": "", "a map": {},
                           "a null byte": "a\0b", "1 MB long": "x" * 1_000_000,
                           "a device": "/dev/zero", "half a name": "hub:a/..",
                           "escapes": "\x1b[2J\n"}.items()},
    **{f"a rank of {value!r}": Hostile("lora", edit(adapter__rank=value), M)
       for value in (0, -4, float("nan"), "x", None, [4], 10**30, "٤x")},
    **{f"an alpha of {value!r}": Hostile("lora", edit(adapter__alpha=value), M)
       for value in (float("nan"), float("inf"), "x", None, [8])},
    **{f"no {name} of adapters": Hostile("lora", partial(_less, name=name), M)
       for name in ("base", "rank", "alpha", "base_weights")},
    **{f"adapters that are {value!r}": Hostile("lora", edit(adapter=value), M)
       for value in (True, [], "x", 3)},
    "adapters that are null": Hostile("lora", edit(adapter=None), M),
    "adapters of a VAE": Hostile("vae", edit(adapter={"base": "x", "rank": 1, "alpha": 1.0}), VAE),
    "adapters without a section": Hostile("lora", edit(ldm=None), M),
    "half an adapter": Hostile("lora", weights(lambda t: t.pop(
        next(n for n in t if "lora_B" in n))), M),
    "the other half": Hostile("lora", weights(lambda t: t.pop(
        next(n for n in t if "lora_A" in n))), M),
    "adapters of other widths": Hostile("lora", _factors(4, columns=31), M),
    "adapters of other heights": Hostile("lora", _factors(4, rows=7), M),
    "adapters of no rank": Hostile("lora", _factors(0), M),
    "adapters of a rank of 300,000": Hostile("lora", _factors(300_000), M),
    "adapters that are vectors": Hostile("lora", all_as(lambda x: x.flatten()), M),
    "adapters that are numbers": Hostile("lora", all_as(lambda x: x.sum()), M),
    "complex adapters": Hostile("lora", all_as(lambda x: x.to(torch.complex64)), M),
    "adapters on nothing": Hostile("lora", weights(lambda t: t.update(
        {"nothing.lora_A.weight": torch.ones(4, 4), "nothing.lora_B.weight": torch.ones(4, 4)})),
        M),
    "adapters on the VAE": Hostile("lora", weights(lambda t: t.update(
        {"vae.encoder.lora_A.weight": torch.ones(4, 4)})), M),
    "adapters with a tensor too many": Hostile("lora", having(EXTRA, [1.0]), M, False),
    "adapters with conditions of their own": Hostile("lora", having(
        "denoiser.conditions.encoders.x.mean", [1.0]), M),
    "NaN as adapters": Hostile("lora", all_as(lambda x: x * float("nan")), M, False),
}  # fmt: skip
RUNS: dict[str, Hostile] = {
    "a state without counters": Hostile("run", _state(None), R),
    "a state that is no JSON": Hostile("run", _state("x"), R),
    "a state that is a list": Hostile("run", _state("[]"), R),
    "a state of nothing": Hostile("run", _state("{}"), R, False),
    "a deep state": Hostile("run", _state("[" * 100_000), R),
    "a state of half a pair": Hostile("run", _state('{"step": "\\ud800"}'), R),
    **{f"a step of {value!r:.20}": Hostile("run", _counters(step=value), R)
       for value in ("x", -1, 1e308, float("nan"), [1], None, "\x1b[2J")},
    "a step of 10^30": Hostile("run", _counters(step=10**30), R, False),
    "counters of strangers": Hostile("run", _counters(**{"\x1b[2J": 1}), R),
    "a window of text": Hostile("run", _counters(window={"loss": "x"}, window_steps="y"), R),
    "a rate of text": Hostile("run", _counters(learning_rate={"x": "y"}), R),
    "a state of other tensors": Hostile("run", lambda f: save_file(
        {"x": torch.ones(1)}, f / "state.safetensors", {"counters": "{}"}), R),
    "a run that aliases": Hostile("run", _run_config("x: &x [*x]\n"), R),
    "a run of tags": Hostile("run", _run_config(
        f"x: !!python/object/apply:importlib.import_module ['{CANARY}']\n"), R),
    "a run that is a list": Hostile("run", write("[]\n"), R),
    "a run of another stage": Hostile("run", put("vae:", "ldm:"), R),
    "metrics that are bytes": Hostile("run", _metrics(b"\xff\xfe\n"), R, False),
    "metrics that are a list": Hostile("run", _metrics(b"[1]\n3\nnull\n"), R, False),
    "deep metrics": Hostile("run", _metrics(b"[" * 100_000 + b"\n"), R, False),
    "metrics of huge numbers": Hostile("run", _metrics(b'{"step": 1' + b"0" * 6000 + b"}\n"), R,
                                       False),
    "metrics of 100 MB": Hostile("run", _metrics(b'{"x": "' + b"y" * 100_000_000 + b'"}\n'), R,
                                 False),
    "metrics in a folder": Hostile("run", instead("metrics.jsonl", Path.mkdir), R, False),
    "metrics in a pipe": Hostile("run", instead("metrics.jsonl", os.mkfifo), R, False),
}  # fmt: skip
