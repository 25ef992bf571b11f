"""Files of one crystal each, written by all cores while more crystals are being made."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon.crystals.files import write_structures
from chemeleon.crystals.symmetry import Axes
from chemeleon.data.parse import from_structure
from chemeleon.errors import DataError
from chemeleon.workers import run_parallel, worker_count

if TYPE_CHECKING:
    from pymatgen.core import Structure

_MANY = 1000  # fewer are written by this process before others have started
_CHUNK = 100


class CrystalFiles:
    """A folder that CIF or POSCAR files are being written to; use it in a ``with`` statement.

    Args:
        folder: files go to its subfolders, ``cif`` and ``poscar``.
        formats: ``cif``, ``poscar`` or both.
        expected: how many crystals will come.

    Raises:
        DataError: as ``write_structures``, or if another process could not write.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str], expected: int) -> None:
        self.folder, self.formats = Path(folder), list(formats)
        self.workers = worker_count() if expected >= _MANY else 1
        self.jobs: queue.Queue[Any] = queue.Queue()
        self.running: Future[None] | None = None

    def __enter__(self) -> CrystalFiles:
        if self.workers > 1:
            self.thread = ThreadPoolExecutor(1)
            self.running = self.thread.submit(self._run)
        return self

    def add(
        self,
        names: Sequence[str],
        structures: Sequence[Structure],
        symmetric: Sequence[Axes | None],
    ) -> None:
        """Write crystals under these names, now or soon; see `write_structures`."""
        if self.running is None:
            write_structures(structures, self.folder, self.formats, names, symmetric)
            return
        if self.running.done():
            self._finish()  # it only ends by itself when something is wrong
        for form in self.formats:
            (self.folder / form).mkdir(parents=True, exist_ok=True)
        crystals = map(from_structure, structures)
        rows = list(zip(names, crystals, symmetric, strict=True))
        for start in range(0, len(rows), _CHUNK):
            self.jobs.put((str(self.folder), self.formats, rows[start : start + _CHUNK]))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.running is None:
            return
        if error is not None:  # nobody wants the rest
            with suppress(queue.Empty):
                while True:
                    self.jobs.get_nowait()
        self.jobs.put(None)
        self.thread.shutdown(wait=True)
        if error is None:
            self._finish()

    def _finish(self) -> None:
        assert self.running is not None
        try:
            self.running.result()
        except RuntimeError as problem:
            raise DataError(
                f"files of crystals could not be written to {self.folder}: {problem}"
            ) from None

    def _run(self) -> None:
        place = "chemeleon.crystals.files:write_chunk"
        for _ in run_parallel(place, iter(self.jobs.get, None), self.workers):
            pass
