"""What sampling returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image
    from pymatgen.core import Structure


class SampleResult(list["Structure"]):
    """What `sample` made: a list of the structures, which also knows of those that failed.

    Attributes:
        structures: one entry per requested crystal, None where it cannot be written down;
            the list itself leaves these out.
        problems: what is wrong with each crystal, or None.
        names: of each crystal, as in files.
        folder: where they were written.
        rank: of this process; all have the crystals, the first one has written them.
        notes: which model was used if none was named, and what could not be done as requested.
    """

    def __init__(
        self,
        structures: list[Structure | None],
        problems: list[str | None],
        names: list[str],
        folder: Path | None,
        rank: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(structure for structure in structures if structure is not None)
        self.structures, self.problems, self.names = structures, problems, names
        self.folder, self.rank, self.notes = folder, rank, list(notes)

    def table(self) -> pandas.DataFrame:
        """Return a row for each requested crystal, as `--table` prints them."""
        from chemeleon.evaluation.report.draw import structure_table

        table = structure_table(self.structures, self.problems)
        return table.set_axis(self.names).rename_axis("name")

    def picture(self, columns: int = 6) -> Image:
        """Draw the crystals side by side; a notebook shows what is returned, ``.save`` writes it.

        Args:
            columns: crystals in a row.

        Raises:
            DataError: if there is no crystal to draw.
        """
        from PIL import Image

        from chemeleon.evaluation.report.draw import contact_sheet

        with TemporaryDirectory() as folder:
            image = Image.open(contact_sheet(self, Path(folder) / "sheet.png", columns=columns))
            image.load()
        return image
