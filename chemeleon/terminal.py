"""The terminal: what files say is shown there as it stands, and is neither markup nor commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment

from chemeleon.errors import visible


class Terminal(Console):
    """A console for text of any origin: no markup, no emoji, no control characters in it.

    What is to be bold is a `rich.text.Text` with a style.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return segments as ever, with what is not printable as escapes."""
        for segment in super().render(renderable, options):
            plain = segment.control or segment.text.isprintable()
            yield segment if plain else Segment(visible(segment.text), segment.style)


def words(text: str = "{task.description}") -> TextColumn:
    """Return a column of a progress bar that may hold the name of a file."""
    return TextColumn(text, markup=False)


@contextmanager
def progress_bar(
    *columns: ProgressColumn,
    text: str = "{task.description}",
    transient: bool = False,
    shown: bool = True,
) -> Iterator[Progress]:
    """Show bars on standard error: a word, the bar and further columns.

    Where they cannot be redrawn, as in a file or notebook, or are not to be shown, there are none.
    """
    console = Terminal(stderr=True)
    with Progress(
        words(text),
        BarColumn(),
        *columns,
        console=console,
        transient=transient,
        disable=not (shown and console.is_terminal),
    ) as bar:
        yield bar


@contextmanager
def shares(shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows a word and the share done, one bar for each word."""
    columns = TimeElapsedColumn()
    with progress_bar(columns, text="{task.description:<16}", shown=shown) as bar:
        tasks: dict[str, TaskID] = {}

        def show(word: str, share: float) -> None:
            if word not in tasks:
                tasks[word] = bar.add_task(word, total=1.0)
            bar.update(tasks[word], completed=share)

        yield show
