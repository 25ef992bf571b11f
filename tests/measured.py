"""Read files in processes of their own and say what that took; also the script that does so."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """What came of one file.

    Attributes:
        crystals: how many were read.
        reasons: the first problems, or the error.
        seconds: processor time of the work, as the machine may be busy.
        megabytes: the most memory that the process held.
    """

    crystals: int
    reasons: list[str]
    seconds: float
    megabytes: float


def measure(paths: Sequence[Path], warm: Sequence[Path] = ()) -> list[Answer]:
    """Read each file in a fork of one process that has read the files of ``warm`` before."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CHEMELEON_WORKERS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([[str(path) for path in group] for group in (warm, paths)]),
        capture_output=True, text=True, timeout=600, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [Answer(*json.loads(line)) for line in done.stdout.splitlines()]


def _read(path: Path) -> tuple[int, list[str]]:
    from chemeleon.data.building import parse_source
    from chemeleon.data.sources import fingerprint, has_column
    from chemeleon.errors import DataError

    try:
        fingerprint(path)
        named = "material_id" if has_column(path, "material_id") else None
        found = parse_source(path, id_column=named, niggli=True)
    except DataError as error:
        return 0, [str(error)]
    return len(found.ids), [problem.reason for problem in found.problems[:3]]


def _main() -> None:
    warm, paths = json.load(sys.stdin)
    import chemeleon.data.building
    import chemeleon.data.elements

    chemeleon.data.elements.elements()
    for path in warm:
        _read(Path(path))
    for path in paths:
        child = os.fork()
        if child == 0:
            started = time.process_time()
            told = _read(Path(path))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps([*told, time.process_time() - started, memory]), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{path}: the process ended with {status}")


if __name__ == "__main__":
    _main()
