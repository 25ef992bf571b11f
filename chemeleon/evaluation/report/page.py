"""The shell of a report: one HTML file that needs no network and lets nothing else in.

Text from files (ids, formulas, reasons) is hostile until escaped. Three walls: `escape` for what is
written in Python, base64 for what is embedded as data (scripts show it as text, never as markup),
and a content security policy which runs only the script that this module wrote, by its hash.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header class="top"><nav aria-label="Sections"><a href="#top">chemeleon</a>{links}</nav>
<button id="theme" class="tool" title="Change between light and dark">Theme</button></header>
<main id="top">
{body}
</main>
<noscript><p class="warning">This report needs JavaScript for the table of crystals.</p></noscript>
{blocks}
<script>
{script}</script>
</body>
</html>
"""


class Section(NamedTuple):
    """A part of the page, left out if it is empty; `body` is trusted HTML."""

    title: str
    body: str
    lead: str = ""  # one line below the heading, plain text

    @property
    def anchor(self) -> str:
        """The id of its element."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def escape(text: object) -> str:
    """Make any value safe inside an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def asset(name: str) -> str:
    """Return a file of ``chemeleon/evaluation/report/assets``."""
    return files("chemeleon.evaluation.report").joinpath("assets", name).read_text(encoding="utf-8")


def data_block(name: str, value: Any) -> str:
    """Return an inert element that holds JSON; ``unpack(name)`` of base.js reads it.

    The JSON is compressed and written in base64, so that nothing in it can end the element.

    Raises:
        ValueError: for values that JSON does not have, such as NaN.
    """
    words = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    packed = base64.b64encode(gzip.compress(words, 9, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{escape(name)}">{packed}</script>'


def page(
    title: str,
    facts: Sequence[str],
    sections: Sequence[Section],
    *,
    warnings: Sequence[str] = (),
    lead: str = "",
    scripts: Sequence[str] = ("base.js",),
    data: Mapping[str, Any] | None = None,
) -> str:
    """Return a whole page.

    Args:
        title: plain text.
        facts: trusted HTML, side by side below the title.
        sections: parts in order; each becomes a link in the bar at the top.
        warnings: plain text, a notice each below the facts.
        lead: plain text below these.
        scripts: files of ``assets``, joined in order into one element.
        data: what scripts read, by the id of its element.
    """
    script = "".join(asset(name) for name in scripts)
    # what is hashed is the text between the tags, with its first line break
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    sections = [part for part in sections if part.body]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="facts-line">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>',
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings),
        _lead(lead),
    ]
    for part in sections:
        heading = f"<h2>{escape(part.title)}</h2>{_lead(part.lead)}"
        parts.append(f'<section id="{escape(part.anchor)}">{heading}\n{part.body}</section>')
    return _TEMPLATE.format(
        digest=digest,
        title=escape(title),
        style=asset("style.css"),
        links="".join(f'<a href="#{escape(p.anchor)}">{escape(p.title)}</a>' for p in sections),
        body="\n".join(parts),
        blocks="\n".join(data_block(name, value) for name, value in (data or {}).items()),
        script=script,
    )


def _lead(text: str) -> str:
    return f'<p class="lead">{escape(text)}</p>' if text else ""


def number(value: float | None) -> str:
    """Return a number in about four significant digits, with a true minus; '–' for none."""
    if value is None or not math.isfinite(value):
        return "–"
    whole = abs(value) < 1e6 and (value == int(value) or abs(value) >= 1000)
    return (f"{value:,.0f}" if whole else f"{value:.4g}").replace("-", "−")


def figure_text(figure: Mapping[str, Any], key: str = "value") -> str:
    """Return a figure of a summary, or another number in its unit: a share in per cent."""
    value = figure.get(key)
    if figure.get("of") is not None and value is not None:
        return f"{100 * value:.1f} %"
    return f"{number(value)} {(figure.get('unit') or '') if value is not None else ''}".rstrip()


def interval_text(figure: Mapping[str, Any]) -> str:
    """Return the interval of a share in per cent, nothing where there is none."""
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def figure_cells(figure: Mapping[str, Any], control: float | None = None) -> list[str]:
    """Return value, interval, bar and count of a figure as cells of a `table`."""
    bar, count, value = "", "", figure.get("value")
    if figure.get("of") is not None and value is not None:
        bar = interval_bar(float(value), figure.get("low"), figure.get("high"), control)
        if figure.get("count") is not None:
            count = f"{number(figure['count'])} of {number(figure['of'])}"
    return [
        f'<span class="value">{escape(figure_text(figure))}</span>',
        f'<span class="range">{interval_text(figure)}</span>',
        bar,
        count,
    ]


def interval_bar(
    value: float, low: float | None, high: float | None, control: float | None = None
) -> str:
    """A share in 0 to 1 with its interval and the control's mark, on a scale from 0 to 1."""
    spans = [("fill", 0.0, value), ("whisker", low, high), ("control", control, control),
             ("dot", value, value)]  # fmt: skip
    marks = "".join(
        f'<i class="{kind}" style="left:{100 * start:.2f}%;width:{100 * (end - start):.2f}%"></i>'
        for kind, start, end in spans if start is not None and end is not None
    )  # fmt: skip
    label = f"{100 * value:.1f} percent"
    return f'<span class="interval" role="img" aria-label="{label}">{marks}</span>'


def note(text: str) -> str:
    """Return a remark, plain text, for a card."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def card(title: str, body: str) -> str:
    """Return a framed part of a section: its title as plain text, its body as trusted HTML."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{heading}{body}</div>'


def cards(layout: str, parts: Sequence[str]) -> str:
    """Return cards as a ``grid``, in ``halves`` or as a ``stack``; nothing without any."""
    return f'<div class="{layout}">{"".join(parts)}</div>' if any(parts) else ""


def key(other: str, kind: str = "line") -> str:
    """Return what marks mean: bars are these crystals, lines or ticks something else."""
    marks = f'<span><i></i>these crystals</span><span><i class="{kind}"></i>{escape(other)}</span>'
    return f'<div class="key">{marks}</div>'


def cell(value: Any) -> str:
    """Return text, a number or a share as JSON as a cell of a `table`."""
    if isinstance(value, Mapping) and "value" in value:
        return " ".join(filter(None, figure_cells(value)))
    return number(value) if isinstance(value, (int, float)) or value is None else escape(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table; header is plain text, cells are trusted HTML, numbers align to the right."""
    head = "".join(f"<th scope=col>{escape(word)}</th>" for word in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="plain {escape(kind)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def definition_list(value: Any) -> str:
    """Return nested settings as HTML, for any JSON-able value."""
    if isinstance(value, Mapping):
        rows = "".join(
            f"<dt>{escape(key)}</dt><dd>{definition_list(item)}</dd>" for key, item in value.items()
        )
        return f"<dl>{rows}</dl>" if rows else "none"
    if isinstance(value, (list, tuple)):
        if all(not isinstance(item, (Mapping, list, tuple)) for item in value):
            return escape(", ".join(map(str, value))) or "none"
        return "".join(definition_list(item) for item in value)
    return "none" if value is None else escape(value)
