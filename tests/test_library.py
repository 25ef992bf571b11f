"""diffusers is imported without its costs, and is whole all the same."""

from __future__ import annotations

import subprocess
import sys

ASKED = """
import importlib.metadata, sys
from chemeleon.diffusion.library import schedulers
from_diffusers = schedulers().DDPMScheduler
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
from diffusers.utils import import_utils
table = import_utils._package_map
assert "data" not in vars(table)  # not read yet
assert table["yaml"] == ["PyYAML"] and "no_such_package" not in table
assert dict(table) == importlib.metadata.packages_distributions()
import torch
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
from diffusers import UNet2DModel
"""


def test_import_is_short_and_nothing_is_lost() -> None:
    subprocess.run([sys.executable, "-c", ASKED], check=True)
