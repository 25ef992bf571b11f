"""The documentation as a site: `make docs` builds it into docs/_build, without the network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # of write_reference

from write_reference import write_reference  # noqa: E402

from chemeleon.version import __version__  # noqa: E402

project = "chemeleon"
author = "The chemeleon developers"
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "jupyter_execute"]
suppress_warnings = ["ref.python"]  # errors that two modules name are the same classes
html_theme = "furo"
html_title = "chemeleon"
html_theme_options = {"source_repository": "", "navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # CI runs the tutorial as a test

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"  # single backticks in docstrings are code
toc_object_entries_show_parents = "hide"


def _name_files(app: Any, name: str, source: list[str]) -> None:
    """Turn links to files of the repository, which the site does not have, into their paths."""
    if "/" not in name:
        source[0] = re.sub(r"\[([^\]]*)\]\(\.\./([^)]*)\)", r"\1 (`\2`)", source[0])


def setup(app: Any) -> None:
    """Write the pages that follow from the code."""
    write_reference(HERE / "reference")
    app.connect("source-read", _name_files)
