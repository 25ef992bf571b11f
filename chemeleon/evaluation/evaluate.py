"""The judge: crystals in, a report out. The protocol is that of ``docs/evaluate.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon.errors import ConfigError
from chemeleon.evaluation.bench import Bench
from chemeleon.evaluation.collection import Progress
from chemeleon.evaluation.report.comparison import Comparison, set_names
from chemeleon.evaluation.report.data import Report
from chemeleon.evaluation.settings import Settings

if TYPE_CHECKING:
    from pymatgen.core import Structure


def evaluate(
    source: str | Path | Sequence[Structure | None],
    settings: Settings | None = None,
    *,
    ids: Sequence[str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge crystals; one row for each, whatever is wrong with it.

    Args:
        source: file or folder, see `data.sources`, or structures (None: asked for, not made).
        settings: how.
        ids: names of the structures.
        manifest: what is known of the origin of the crystals (model, sampler, seed).
        progress: called with a word and the share done.

    Raises:
        ConfigError: for settings that do not fit.
        DataError: if a source as a whole cannot be read.
    """
    bench = Bench.open(settings or Settings(), progress)
    return bench.judge(bench.read(source, ids), source, manifest)


def compare(
    sources: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Judge several sets by the same potential, against the same references and control.

    Args:
        sources: files or folders, see `data.sources`.
        settings: how.
        progress: called with the set and a word, and the share done.

    Raises:
        ConfigError: for settings that do not fit.
        DataError: if a source as a whole cannot be read.
    """
    if isinstance(sources, str | Path) or not sources:
        raise ConfigError("a list of files or folders is compared, of one at least")
    bench = Bench.open(settings or Settings(), progress)
    read = [bench.read(source) for source in sources]  # all, before the work on the first
    names = set_names(list(map(str, sources)))
    found = {}
    for name, source, collection in zip(names, sources, read, strict=True):
        if progress is not None:
            bench.progress = lambda word, share, name=name: progress(f"{name}: {word}", share)
        found[name] = bench.judge(collection, source)
    return Comparison(found)
