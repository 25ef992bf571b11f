"""How the package is put together: what every reader relies on and no linter says."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import chemeleon

ROOT = Path(chemeleon.__file__).parent


def modules(root: Path) -> dict[str, Path]:
    """Return the modules of a package by their dotted names."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere, also within functions, but not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imported(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{name.name}" for name in node.names)
        else:
            yield from imported(node)


def graph(root: Path) -> dict[str, set[str]]:
    """Return which modules of a package each of them imports."""
    known = modules(root)
    arrows: dict[str, set[str]] = {}
    for name, path in known.items():
        found = imported(ast.parse(path.read_text()))
        ends = {thing if thing in known else thing.rpartition(".")[0] for thing in found}
        arrows[name] = {end for end in ends if end in known and end != name}
    return arrows


def ring(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a ring, if there is one."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_ring():
    assert ring(graph(ROOT)) == []


@pytest.mark.parametrize(
    ("back", "found"),
    [
        ("from p.b import f", True),
        ("def f():\n    from p import b", True),
        ("try:\n    import p.b\nexcept ImportError: ...", True),
        ("if TYPE_CHECKING:\n    from p.b import f", False),
        ("if TYPE_CHECKING: ...\nelse:\n    from p.b import f", True),
    ],
)
def test_rings_are_found_wherever_the_import_stands(tmp_path, back, found):
    for name, text in {"__init__": "", "a": back, "b": "import p.c", "c": "import p.a"}.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert bool(ring(graph(tmp_path / "p"))) == found


def test_no_room_has_the_name_of_a_verb():
    """Importing ``chemeleon.x.y`` would put the room in the place of the function or its like."""
    rooms = {name.removeprefix("chemeleon.").partition(".")[0] for name in modules(ROOT)}
    assert not rooms & {name for name in chemeleon.__all__ if not name.startswith("_")}


def long_functions(root: Path, most: int = 80) -> list[str]:
    """Return the functions of a package with more lines than that, signature and all."""
    return [
        f"{name}:{node.name}"
        for name, path in modules(root).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= most
    ]


def test_no_function_is_longer_than_a_screen():
    assert long_functions(ROOT) == []


@pytest.mark.parametrize(("lines", "found"), [(80, []), (81, ["p.a:f"])])
def test_long_functions_are_found_within_classes_too(tmp_path, lines, found):
    (tmp_path / "p").mkdir()
    body = "        x = 1\n" * (lines - 1)
    (tmp_path / "p" / "a.py").write_text(f"class A:\n    async def f(self):\n{body}")
    assert long_functions(tmp_path / "p") == found
