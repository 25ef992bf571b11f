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
    """A part of the page; `body` is trusted HTML."""

    anchor: str
    title: str
    body: str
    lead: str = ""  # one line below the heading, plain text


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
    header: str,
    sections: Sequence[Section],
    scripts: Sequence[str] = ("base.js",),
    data: Mapping[str, Any] | None = None,
) -> str:
    """Return a whole page.

    Args:
        title: plain text.
        header: trusted HTML above the first section.
        sections: parts in order; each becomes a link in the bar at the top.
        scripts: files of ``assets``, joined in order into one element.
        data: what scripts read, by the id of its element.
    """
    script = "".join(asset(name) for name in scripts)
    # what is hashed is the text between the tags, with its first line break
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    parts = [header]
    for part in sections:
        lead = f'<p class="lead">{escape(part.lead)}</p>' if part.lead else ""
        heading = f"<h2>{escape(part.title)}</h2>{lead}"
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


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in about that many significant digits, with a true minus; '–' for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    if 10**digits <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


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


def facts_line(parts: Sequence[str]) -> str:
    """Return what stands below the title of a page, parts of trusted HTML side by side."""
    return f'<p class="facts-line">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


def card(title: str, body: str) -> str:
    """Return a framed part of a section: its title as plain text, its body as trusted HTML."""
    return f'<div class="card"><h3>{escape(title)}</h3>{body}</div>'


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
