"""Ask conditional models for things, and see how often crystals have them.

    python benchmarks/conditions.py MODEL [MODEL ...]
        [--predictor PRED] [--num 1000] [--samples 200] [-o OUT]

A MODEL with the condition `composition` is asked for the compositions of validation crystals (one
crystal each) at several guidances: share of exact reduced formulas and of exact chemical systems.
One with a number (a condition on the column that PRED predicts) is asked for several values: mean
of what PRED, trained apart, says of the crystals. Prints tables in Markdown; the plot of the second
is OUT/conditions.png.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemeleon.config.presets import load_data
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.soundness import structural_problems
from chemeleon.data.dataset import load_split
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.conditions import element_counts
from chemeleon.models.predictor import Predictor
from chemeleon.models.pretrained import place
from chemeleon.prediction.run import predict


def counts(crystals: Crystals) -> Tensor:
    """Count the atoms of each element, ``(M, 100)`` int64."""
    parts = torch.arange(len(crystals)).split(4096)
    return torch.cat([element_counts(crystals.batch(part)) for part in parts]).long()


def formula(row: Tensor) -> str:
    """Return a reduced formula of counts ``(100,)``."""
    from ase.data import chemical_symbols

    divisor = math.gcd(*row.tolist())
    return "".join(
        f"{chemical_symbols[z]}{int(row[z]) // divisor}" for z in row.nonzero().flatten().tolist()
    )


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print()
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def compositions(pipeline: Pipeline, name: str, words: argparse.Namespace) -> None:
    """Ask for the compositions of validation crystals."""
    held_out = load_split(load_data(words.data), words.split)
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
    wanted = counts(held_out.subset(order[: words.num]))
    asked = [formula(row) for row in wanted]
    rows = []
    for guidance in words.guidance:
        start = time.perf_counter()
        options: dict[str, Any] = {"conditions": {name: asked}, "guidance": guidance}
        made = pipeline.generate(len(asked), seed=words.seed, **options)
        took = time.perf_counter() - start
        found = counts(made)
        # equal ratios: no division, so no rounding
        sizes = found.sum(1, keepdim=True), wanted.sum(1, keepdim=True)
        exact = (found * sizes[1] == wanted * sizes[0]).all(1).double().mean()
        system = ((found > 0) == (wanted > 0)).all(1).double().mean()
        valid = sum(p is None for p in structural_problems(made)) / len(made)
        numbers = f"{exact:.1%}", f"{system:.1%}", f"{valid:.1%}", f"{took:.1f}"
        rows.append((f"{guidance:g}", *numbers))
        print(f"{name}, guidance {guidance:g}: {numbers}", flush=True)
    print(f"\n{len(asked)} compositions of {words.data}/{words.split}, one crystal each")
    show(("guidance", "exact formula", "exact chemical system", "valid", "seconds"), rows)


def gaps(
    pipeline: Pipeline, name: str, column: str, predictor: Predictor, words: argparse.Namespace
) -> dict[float, dict[float, list[float]]]:
    """Ask for numbers; return guidance to target to what the predictor says of each crystal."""
    answers: dict[float, dict[float, list[float]]] = {}
    rows = []
    for guidance in words.number_guidance:
        for target in words.targets:
            options: dict[str, Any] = {"conditions": {name: target}, "guidance": guidance}
            made = pipeline.generate(words.samples, seed=words.seed, **options)
            good = [i for i, p in enumerate(structural_problems(made)) if p is None]
            structures = to_structures(made.subset(torch.tensor(good, dtype=torch.int64)))
            said = [p.values[column] for p in predict(predictor, structures) if p.values]
            said = said or [math.nan]
            answers.setdefault(guidance, {})[target] = said
            values = torch.tensor(said)
            low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
            rows.append(
                (
                    *(f"{guidance:g}", f"{target:g}", f"{values.mean():.2f}"),
                    *(f"{values.std():.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"),
                    *(f"{(values - target).abs().mean():.2f}", f"{len(said)}/{words.samples}"),
                )
            )
            print(f"{name}={target:g}, guidance {guidance:g}: {rows[-1]}", flush=True)
    titles = ("guidance", "asked", "mean predicted", "std", "median", "quartiles")
    show((*titles, "mean error", "valid"), rows)
    for guidance, by_target in answers.items():
        means = [sum(said) / len(said) for said in by_target.values()]
        rises = all(a < b for a, b in itertools.pairwise(means))
        print(f"guidance {guidance:g}: means {'rise' if rises else 'DO NOT RISE'} monotonically")
    return answers


def plot(answers: dict[float, dict[float, list[float]]], name: str, unit: str, path: Path) -> None:
    """Draw what was predicted over what was asked, one panel for each guidance."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(answers), figsize=(4 * len(answers), 4), squeeze=False, sharey=True, dpi=150
    )
    for axis, (guidance, by_target) in zip(panels[0], answers.items(), strict=True):
        targets = list(by_target)
        axis.plot([0, max(targets)], [0, max(targets)], color="0.7", lw=1, label="as asked")
        steps = [abs(a - b) for a in targets for b in targets if a != b]
        widths = 0.35 * min(steps, default=1.0)
        axis.violinplot(list(by_target.values()), targets, widths=2 * widths, showextrema=False)
        means = [sum(said) / len(said) for said in by_target.values()]
        axis.plot(targets, means, "o-", color="C1", label="mean")
        axis.set_title(f"guidance {guidance:g}")
        axis.set_xlabel(f"{name} asked for{unit}")
    panels[0][0].set_ylabel(f"{name} predicted{unit}")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"plot: {path}")


def main() -> None:
    """Measure every model that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--predictor", help="needed for conditions that are numbers")
    parser.add_argument("--data", default="mp")
    known = "models of the package know the crystals of mp/val: judge them on test"
    parser.add_argument("--split", default="val", choices=("val", "test"), help=known)
    parser.add_argument("--num", type=int, default=1000, help="compositions")
    parser.add_argument("--samples", type=int, default=200, help="crystals of each number")
    parser.add_argument("--guidance", type=float, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--targets", type=float, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--number-guidance", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("out"))
    words = parser.parse_args()
    predictor = None
    if words.predictor is not None:
        predictor = place(Predictor.from_pretrained(words.predictor))
    for reference in words.models:
        pipeline = Pipeline.from_pretrained(reference)
        data = pipeline.model.origin.get("data") or {}
        trained = pipeline.model.origin.get("trained") or {}
        print(f"\n{reference}: {trained.get('steps')} steps, {pipeline.device}", flush=True)
        for name, condition in pipeline.model.config.conditions.items():
            if condition.kind == "composition":
                compositions(pipeline, name, words)
            if condition.kind != "number":
                continue
            column = condition.column
            if predictor is None or column not in predictor.config.targets:
                print(f"condition {name} is left out: --predictor does not name one of {column}")
                continue
            unit = (data.get("conditions") or {}).get(name, {}).get("unit")
            found = gaps(pipeline, name, str(column), predictor, words)
            file = f"conditions-{Path(reference).name}-{name}.png"
            plot(found, name, f" ({unit})" if unit else "", words.output / file)


if __name__ == "__main__":
    main()
