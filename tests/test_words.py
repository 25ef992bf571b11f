"""What users read speaks the field's words: a search for a standard term finds its page."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.config.presets import describe_preset, list_presets
from chemeleon.config.schema import STAGES
from chemeleon.reinforcement.rewards._loading import built_in

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "chemeleon"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# what must not come back, and the term that stands in its place
WORDS = {
    r"as they come": "as generated (unrelaxed)",
    r"how hard|push(es)? (only|harder|towards)|without a push": "classifier-free guidance (scale)",
    r"\bwalk(s|ed|ing)?\b": "reverse diffusion, sampling trajectory",
    r"evaluations? of the (denoiser|network)": "denoising steps",
    r"\bfresh noise|(share|scale) of (all )?noise of the": "stochasticity (DDIM eta)",
    r"by the clock": "time-budgeted cosine decay, time budget",
    r"price for|worth it": "composition penalty on the number of elements",
    r"\bask(s|ed)? for\b|\basked of\b|asked, eV": "requested",
    r"\b(go(es|ing)?|gone) on (with|in)\b": "resume",
    r"\bdraw(s|n)? (new )?crystals": "sample, generate",
    r"(unique|stable),? and new\b|\bnew and stable|, new and|new is against|count as new"
    r"|\bnew %|new, stable|different .{0,30}and new\b": "novel",
    r"\bsound\b(?!\.)|structurally broken|broken (crystals?|candidates)|are broken|be broken"
    r"|is broken": "valid, invalid",
    r"(is|are|was|not) told the (elements|conditions)|given them \(": "conditioned on",
    r"replay share|copies of (the )?(training|first)|rise means copies": "memorisation",
    r"the hull does not know|no hull knows": "no competing phases in the chemical system",
}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Give the help of a command, of its options and of all commands below it."""
    yield name, command.help or ""
    for one in command.params:
        yield f"{name} {one.name}", getattr(one, "help", None) or ""
    for child in getattr(command, "commands", {}).values():
        yield from _helps(child, f"{name} {child.name}")


def _presets() -> Iterator[tuple[str, str]]:
    for stage in STAGES:
        for name in list_presets(stage):
            yield f"{stage} preset {name}", describe_preset(stage, name)


def _messages(path: Path) -> Iterator[tuple[str, str]]:
    """Give all text of a module but names and docstrings, a gap of an f-string as {}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Expr)
        for part in ast.iter_child_nodes(node)
    }
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        words = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
        if id(node) not in inner and all(isinstance(word, str) for word in words):
            text = "".join(map(str, words))
            if " " in text:
                yield f"{path.name}, line {getattr(node, 'lineno', 0)}", text


def _cells(notebook: Path) -> Iterator[tuple[str, str]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            yield f"{notebook.name}, cell {number}", "".join(cell["source"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[tuple[str, str]]:
    """Where each text is, and the text: pages, help, settings, presets, rewards, messages."""
    folder = tmp_path_factory.mktemp("reference")
    _module(ROOT / "docs" / "write_reference.py").write_reference(folder)
    verbs = (chemeleon.sample, chemeleon.evaluate, chemeleon.compare, chemeleon.prepare)
    verbs = (*verbs, chemeleon.rl.flywheel)
    return [
        *((path.name, path.read_text(encoding="utf-8")) for path in PAGES),
        *_cells(ROOT / "docs" / "tutorial.ipynb"),
        *_helps(typer.main.get_command(app), "chemeleon"),
        *((f"chemeleon.{verb.__name__}", verb.__doc__ or "") for verb in verbs),
        ("settings", (folder / "settings.md").read_text(encoding="utf-8")),
        *_presets(),
        ("rewards", CliRunner().invoke(app, ["rl", "rewards", *built_in()]).output),
        *(text for path in sorted(CODE.rglob("*.py")) for text in _messages(path)),
    ]


@pytest.mark.parametrize(("pattern", "instead"), WORDS.items(), ids=WORDS.values())
def test_what_users_read_uses_the_standard_term(texts, pattern, instead):
    found = []
    for place, text in texts:
        flat = " ".join(text.split())
        for hit in re.finditer(pattern, flat, re.IGNORECASE):
            found.append(f"{place}: ...{flat[max(0, hit.start() - 40) : hit.end() + 40]}...")
    assert not found, f"say '{instead}':\n" + "\n".join(found)


def test_the_texts_are_all_there(texts):
    whole = dict(texts)
    assert "DDIM" in whole["chemeleon sample eta"]
    assert "cosine" in whole["settings"]
    assert whole["chemeleon ldm"]
    assert "charge neutrality" in whole["rewards"]
    assert whole["rl preset mp/dng"]
    assert any(text.startswith("the guidance interval {}") for _, text in texts)


@pytest.mark.parametrize(
    "term",
    [
        "classifier-free guidance scale",
        "reverse diffusion",
        "sampling trajectory",
        "denoising steps",
        "unrelaxed",
        "memorisation",
        "stochasticity",
        "composition penalty",
        "time-budgeted cosine decay",
    ],
)
def test_a_search_for_the_standard_term_finds_a_page(texts, term):
    assert any(term in " ".join(text.split()).lower() for _, text in texts)


@pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])
def test_decimal_numbers_begin_with_a_digit(page):
    assert not re.findall(r".*(?<![\w.)\]}/:*])\.\d.*", page.read_text(encoding="utf-8"))
