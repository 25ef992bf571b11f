"""Model folders whose config.yaml is hostile, each made of a small honest folder.

``CONFIGS`` maps a name to what ``Hostile`` says. ``make`` changes a copy of the folder of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

Make = Callable[[Path], object]
CANARY = "canary_of_hostile_models"  # a module that leaves a file when it is imported


class Hostile(NamedTuple):
    """A hostile folder.

    Attributes:
        kind: of the honest folder that it is made of.
        make: changes a copy of it.
        commands: names of the commands that it is given to.
        refused: it must be refused; others may also be inert and give an ordinary result.
    """

    kind: str
    make: Make
    commands: tuple[str, ...]
    refused: bool = True


def edit(**changes: object) -> Make:
    """Return what sets keys of the config, ``a__b`` for ``a: {b: ...}``."""

    def make(folder: Path) -> None:
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *outer, last = name.split("__")
            section = config
            for key in outer:
                section = section.setdefault(key, {})
            section[last] = value
        path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    return make


def add(text: str) -> Make:
    """Return what puts text behind the config, as surrogates where bytes are no UTF-8."""

    def make(folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_bytes(path.read_bytes() + text.encode("utf-8", "surrogateescape"))

    return make


def write(text: str | bytes) -> Make:
    """Return what replaces the config."""
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "config.yaml").write_bytes(data)


def put(old: str, new: str) -> Make:
    """Return what replaces text within the config."""

    def make(folder: Path) -> None:
        path = folder / "config.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return make


def without(*names: str) -> Make:
    """Return what removes keys from the config."""

    def make(folder: Path) -> None:
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in names}))

    return make


def _bomb(width: int, levels: int, opening: str = "[", closing: str = "]") -> str:
    lines = [f"b0: &b0 {opening}" + ", ".join(["lol"] * width) + closing]
    for level in range(1, levels):
        lines.append(f"b{level}: &b{level} [" + ", ".join([f"*b{level - 1}"] * width) + "]")
    return "\n".join(lines) + "\n"


def _sparse(folder: Path) -> None:
    with (folder / "config.yaml").open("ab") as file:
        file.truncate(2 << 30)


S, C, BOTH = ("sample",), ("convert",), ("sample", "convert")
VAE = ("ldm", "convert")
APPLY = f"!!python/object/apply:importlib.import_module ['{CANARY}']"
NAMED = {"name": f"{CANARY}:thing", "weight": 1.0}
MANY = list(range(1, 200_000))

CONFIGS: dict[str, Hostile] = {
    # --- YAML
    "aliases of aliases, unused": Hostile("ldm", add(_bomb(9, 9)), BOTH),
    "aliases of aliases as frequencies": Hostile(
        "vae", lambda f: (add(_bomb(9, 9))(f), put("fourier_frequencies:\n  - 1\n  - 2\n  - 4\n"
                          "  - 8", "fourier_frequencies: []")(f),
                          add("vae2: *b8\n")(f)), VAE),
    "aliases of aliases as data": Hostile(
        "ldm", lambda f: (without("data")(f), add(_bomb(9, 9) + "data: {name: *b8}\n")(f)), BOTH),
    "merged maps of merged maps": Hostile("ldm", add(
        "m0: &m0 {a: 1, b: 2}\n" + "".join(
            f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}], k{i}: 1}}\n"
            for i in range(1, 9))), S),
    "an alias of itself": Hostile("ldm", add("x: &x [*x]\n"), BOTH),
    "a map within itself": Hostile("ldm", lambda f: (
        without("data")(f), add("data: &x {name: demo, niggli: true, more: *x}\n")(f)), BOTH),
    "100,000 open brackets": Hostile("ldm", add("x: " + "[" * 100_000), BOTH),
    "100,000 closed brackets": Hostile("ldm", add("x: " + "[" * 100_000 + "]" * 100_000), BOTH),
    "5,000 maps deep": Hostile("ldm", add(
        "x:\n" + "".join(" " * (i + 1) + "x:\n" for i in range(5000))), S),
    "400 lists deep": Hostile("ldm", add("data2: " + "[" * 400 + "]" * 400 + "\n"), BOTH, False),
    "questions within questions": Hostile("ldm", add("? " * 50_000), S),
    "a tag that imports": Hostile("ldm", add(f"x: {APPLY}\n"), BOTH),
    "a tag that imports, as kind": Hostile("ldm", write(f"kind: {APPLY}\n"), BOTH),
    "a tag of a module": Hostile("ldm", add(f"x: !!python/module:{CANARY} ''\n"), S),
    "a tag of a name": Hostile("ldm", add(f"x: !!python/name:{CANARY}.thing ''\n"), S),
    "a tag of a new object": Hostile("ldm", add(f"x: !!python/object/new:{CANARY}.Thing {{}}\n"),
                                     S),
    "an unknown tag": Hostile("ldm", add("x: !thing 3\n"), S),
    "broken base64": Hostile("ldm", add("x: !!binary '===='\n"), S),
    "base64 as kind": Hostile("ldm", put("kind: ldm", "kind: !!binary bGRt"), BOTH),
    "a date that is none": Hostile("ldm", add("x: 2020-99-99\n"), S, False),
    "a date as version": Hostile("ldm", put("chemeleon: 0.1.0", "chemeleon: 2020-01-01"), BOTH,
                                 False),
    "a set as section": Hostile("ldm", lambda f: (
        without("data")(f), add("data: !!set {a, b}\n")(f)), BOTH),
    "an integer of 5,000 digits": Hostile("ldm", add(f"x: {'9' * 5000}\n"), S),
    "layers of 5,000 digits": Hostile("ldm", put("layers: 2", f"layers: {'9' * 5000}"), BOTH),
    "layers of 4,000 digits": Hostile("ldm", put("layers: 2", f"layers: {'9' * 4000}"), BOTH),
    "hexadecimal layers": Hostile("ldm", put("layers: 2", f"layers: 0x{'f' * 9000}"), BOTH),
    "base 60": Hostile("ldm", add("x: 1" + ":59" * 100_000 + "\n"), S),
    "base 60 as steps": Hostile("ldm", put("steps: 1000", "steps: 9:59:59:59:59:59:59"), BOTH),
    "not UTF-8": Hostile("ldm", add("x: \udcff\udcfe\n"), BOTH),
    "UTF-16": Hostile("ldm", lambda f: write(
        (f / "config.yaml").read_text().encode("utf-16"))(f), BOTH, False),
    "a null byte": Hostile("ldm", add("x: a\0b\n"), S),
    "half a surrogate pair": Hostile("ldm", put("kind: ldm", 'kind: "\\ud800"'), BOTH),
    "half a pair as name": Hostile("ldm", edit(data__name="X") and put("  name: demo",
                                   '  name: "\\ud800"'), BOTH, False),
    "escapes as kind": Hostile("ldm", put("kind: ldm", 'kind: "\\e[2J\\e]0;x\\a\\u202e"'), BOTH),
    "escapes as version": Hostile("ldm", lambda f: (
        put("chemeleon: 0.1.0", 'chemeleon: "\\e[31mred\\n\\n\\r"')(f), edit(vae=3)(f)), BOTH),
    "escapes as keys": Hostile("ldm", lambda f: add('"\\e[31mkey\\r": 1\n')(f) or put(
        "    width: 32\n", '    width: 32\n    "\\e]0;x\\a\\e[2J": 1\n')(f), BOTH),
    "escapes in a broken line": Hostile("ldm", add('x: "\\q \x1b[2J\n'), BOTH),
    "empty": Hostile("ldm", write(""), BOTH),
    "null": Hostile("ldm", write("null\n"), BOTH),
    "a number": Hostile("ldm", write("3\n"), BOTH),
    "a list": Hostile("ldm", write("- kind: ldm\n"), BOTH),
    "text": Hostile("vae", write("kind\n"), VAE),
    "two documents": Hostile("ldm", add("---\nkind: ldm\n"), S),
    "keys that cannot be": Hostile("ldm", add("{[1, 2]: 3}\n"), S),
    "a list as key": Hostile("ldm", add("? [1, 2]\n: 3\n"), S),
    "keys that are no text": Hostile("ldm", add("1: 2\nnull: 3\ntrue: 4\n2020-01-01: 5\n"), BOTH,
                                     False),
    "50 MB of text": Hostile("ldm", add("x: " + "y" * 50_000_000 + "\n"), BOTH),
    "a million keys": Hostile("ldm", add("".join(f"k{i}: {i}\n" for i in range(1_000_000))), S),
    "2 GB of nothing": Hostile("ldm", _sparse, BOTH),
    "a kind of 1 MB": Hostile("ldm", edit(kind="x" * 1_000_000), BOTH),
    # --- sections
    "no sections": Hostile("ldm", without("vae", "ldm"), BOTH),
    "lists as sections": Hostile("ldm", edit(vae=[], ldm=[1]), BOTH),
    "text as sections": Hostile("vae", edit(vae="x"), VAE),
    "a list as data": Hostile("ldm", edit(data=[1, 2]), BOTH, False),
    "odd conditions of data": Hostile("gap", edit(data__conditions__density=[1]),
                                      ("condition", "convert"), False),
    "odd ranges of data": Hostile("gap", edit(data__conditions__density={
        "low": "x", "high": float("nan"), "unit": ["\x1b[2J"]}), ("condition", "convert"), False),
    "odd training": Hostile("ldm", edit(trained={"metrics": [{"a": [1]}], "steps": "\x1b[2J"}),
                            BOTH, False),
    "odd import": Hostile("ldm", edit(imported={"assumed": 3, "file": ["x"]}), BOTH, False),
    "code in every place": Hostile("ldm", edit(
        rl={"rewards": [NAMED]}, rewards=[NAMED], reward=f"{CANARY}:thing", potential=f"{CANARY}:t",
        plugins=[CANARY], **{"import": CANARY, "__class__": f"{CANARY}.Thing", "@module": CANARY,
                             "@class": "Thing", "_target_": f"{CANARY}.thing"},
        trained__rewards=[NAMED], data__source=f"{CANARY}:thing"), BOTH, False),
    "code in the sections": Hostile("ldm", edit(
        ldm___target_=f"{CANARY}.thing", vae___target_=f"{CANARY}.thing"), BOTH),
    "a scheduler by path": Hostile("ldm", edit(ldm__sampler__scheduler=f"{CANARY}:thing"), BOTH),
    "classes of numbers": Hostile("ldm", edit(vae__kind={"@module": CANARY, "@class": "Thing"}),
                                  BOTH),
    # --- what is asked for
    "a million layers": Hostile("ldm", edit(ldm__denoiser__layers=1_000_000), BOTH),
    "5,000 layers": Hostile("ldm", edit(ldm__denoiser__layers=5_000), BOTH),
    "a million layers of the encoder": Hostile("vae", edit(vae__encoder_layers=1_000_000), VAE),
    "10^30 layers of the decoder": Hostile("vae", edit(vae__decoder_layers=10**30), VAE),
    "a width of 2^40": Hostile("ldm", edit(ldm__denoiser__width=2**40), BOTH),
    "a width of 10^6": Hostile("vae", edit(vae__width=1_000_000), VAE),
    "a width of 10^400": Hostile("vae", edit(vae__width=2 * 10**400), VAE),
    "10^9 heads": Hostile("vae", edit(vae__width=10**9, vae__heads=10**9), VAE),
    "no heads": Hostile("vae", edit(vae__heads=0), VAE),
    "2^62 in the MLP": Hostile("vae", edit(vae__feedforward=2**62), VAE),
    "an MLP 2^40 times as wide": Hostile("ldm", edit(ldm__denoiser__mlp_ratio=2**40), BOTH),
    "10^12 latents": Hostile("ldm", edit(vae__latent_dim=10**12), BOTH),
    "200,000 frequencies": Hostile("vae", edit(
        vae__fourier_frequencies=MANY, vae__coordinate_input="fourier"), VAE),
    "200,000 idle frequencies": Hostile("vae", edit(vae__fourier_frequencies=MANY), VAE, False),
    "a frequency of 10^40": Hostile("vae", edit(vae__fourier_frequencies=[10**40]), VAE, False),
    "3e8 steps": Hostile("ldm", edit(ldm__diffusion__steps=300_000_000), BOTH),
    "10^30 steps": Hostile("ldm", edit(ldm__diffusion__steps=10**30), BOTH),
    "one step": Hostile("ldm", edit(ldm__diffusion__steps=1), BOTH, False),
    "10^9 steps of sampling": Hostile("ldm", edit(ldm__sampler__steps=10**9), ("long",)),
    "more steps than there are": Hostile("ldm", edit(
        ldm__diffusion__steps=3, ldm__sampler__steps=4), ("long",), False),
    "noise that falls": Hostile("ldm", edit(
        ldm__diffusion__beta_start=0.9999999, ldm__diffusion__beta_end=1e-300), BOTH, False),
    "NaN as noise": Hostile("ldm", edit(ldm__diffusion__beta_start=float("nan")), BOTH),
    "noise of nothing": Hostile("ldm", edit(
        ldm__diffusion__beta_start=1e-320, ldm__diffusion__beta_end=1e-320), BOTH, False),
    "an infinite temperature": Hostile("ldm", edit(ldm__sampler__temperature=float("inf")), BOTH),
    "NaN as temperature": Hostile("ldm", edit(ldm__sampler__temperature=float("nan")), BOTH),
    "infinite penalty": Hostile("ldm", edit(ldm__sampler__composition_penalty=float("inf")), BOTH),
    "10^9 redraws": Hostile("ldm", edit(ldm__sampler__redraw=10**9), BOTH),
    "NaN as penalty": Hostile("ldm", edit(ldm__sampler__composition_penalty=float("nan")), BOTH),
    "NaN as dropout": Hostile("ldm", edit(vae__dropout=float("nan")), BOTH),
    "NaN as decay": Hostile("ldm", edit(ldm__ema_decay=float("nan")), BOTH),
    "a wrong scheduler": Hostile("ldm", edit(ldm__sampler__scheduler="euler"), ("plain",)),
    "flow with steps of noise": Hostile("ldm", edit(
        ldm__diffusion={"process": "flow", "prediction": "flow", "learned_variance": False,
                        "steps": 10**12}), BOTH),
    "the elements are told, but not asked for": Hostile("ldm", edit(vae__kind="csp"), BOTH),
    # --- conditions
    "10^9 classes": Hostile("gap", edit(ldm__conditions__density={
        "kind": "category", "column": "x", "categories": 10**9}), ("condition", "convert")),
    "50,000 conditions": Hostile("ldm", edit(ldm__conditions={
        f"c{i}": {"kind": "num_elements"} for i in range(50_000)}), BOTH),
    **{f"a condition called {name!a}": Hostile("gap", edit(ldm__conditions={
        name: {"kind": "number", "column": "density"}}), BOTH)
       for name in ("keys", "__class__", "forward", "training", "a.b", "", "\x1b[2J", "x\n")},
    "a number as condition": Hostile("gap", edit(ldm__conditions={3: 4}), BOTH),
    "a list as conditions": Hostile("gap", edit(ldm__conditions=["density"]), BOTH),
    "escapes as column": Hostile("gap", edit(ldm__conditions__density__column="\x1b[2J\n\r"),
                                 ("condition", "convert"), False),
    # --- predictors
    "no targets": Hostile("predictor", edit(predictor__targets=[]), ("predict", "convert")),
    "300,000 targets": Hostile("predictor", edit(
        predictor__targets=[f"t{i}" for i in range(300_000)]), ("predict", "convert")),
    "10^9 radial functions": Hostile("predictor", edit(predictor__radial=10**9),
                                     ("predict", "convert")),
    "a cutoff of 10^6": Hostile("predictor", edit(predictor__cutoff_angstrom=1e6),
                                ("predict", "convert")),
    "a cutoff of 500": Hostile("predictor", edit(predictor__cutoff_angstrom=500.0),
                               ("predict", "convert")),
    "an infinite cutoff": Hostile("predictor", edit(predictor__cutoff_angstrom=float("inf")),
                                  ("predict", "convert")),
    "10^6 layers of a predictor": Hostile("predictor", edit(predictor__layers=10**6),
                                          ("predict", "convert")),
    "10^9 layers of its encoder": Hostile("predictor", edit(predictor__encoder_layers=10**9),
                                          ("predict", "convert"), False),
    "escapes as target": Hostile("predictor", edit(
        predictor__targets=["\x1b[2J\n=cmd()"], predictor__units={"\x1b[2J": "\x1b]0;x\x07"}),
        ("predict", "convert"), False),
    "a path as target": Hostile("predictor", edit(predictor__targets=["../../x"]),
                                ("predict", "convert"), False),
}  # fmt: skip
