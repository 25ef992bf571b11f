"""`chemeleon rl rewards`: what a model can be tuned for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chemeleon.cli.options import say


def rewards(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Only these, with all about their options; also ./FILE.py:NAME, package:NAME,"
            " which are run.",
        ),
    ] = None,
) -> None:
    """List the rewards with their options.

    [bold]Examples[/]

    \b
    chemeleon rl rewards
    chemeleon rl rewards energy
    chemeleon rl rewards ./mine.py:density
    """
    from inspect import getdoc

    from chemeleon.reinforcement.rewards._loading import built_in, find_reward

    known = names or built_in()
    width = max(map(len, known))
    for name in known:
        kind = find_reward(name)
        line = (getdoc(kind) or "").partition("\n")[0] or "no description"
        say(f"{name:<{width}}  {line}")
        options = kind.Options.model_fields
        if names:
            for key, field in options.items():
                say(f"  {key} ({_default(field)})  {field.description or ''}".rstrip())
        elif options:
            described = (f"{key}={_default(field)}" for key, field in options.items())
            say(f"{'':<{width}}  options: {', '.join(described)}")


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else str(value)
