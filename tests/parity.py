"""Our value of every recorded array of the published models, and how far it is from theirs.

The difference is ``max |ours - theirs| / max |theirs|`` (per step for trajectories). ``rows`` lists
every array of every file, with a figure or with the reason why there is none.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels; recorded arrays are flat over
atoms where ours are padded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from reference import checkpoint, reference
from torch import Tensor

from chemeleon.checkpoints.chemeleon2.lightning import convert
from chemeleon.crystals.batch import CrystalBatch, Crystals

BOUND = 1e-5
WALK_BOUND = 1e-4
FUSED = "with the exact GELU of PyTorch's fused path; ours is the tanh form that was configured"
LATER = "later issue (rewards, metrics)"
LATER_FILES = ("features_metrics",)
LATER_ARRAYS = ("norm", "standardize", "mmd", "grp", "reward")
INPUTS = ("draw", "lat_lengths", "lat_angles", "dit_z", "dit_t", "dit_mask", "dit_y")
MORE_INPUTS = ("eps", "formulas", "gap", "klass", "band_gap_used", "batch", "token_idx")


class Row(NamedTuple):
    """One line of the table; ``error`` is None where nothing is compared, for ``note``'s reason."""

    file: str
    array: str
    what: str
    error: float | None
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """True if the difference is within the bound, or there is none to judge."""
        return self.error is None or self.error <= self.bound


class Found(NamedTuple):
    """Our value of an array; with ``per_step`` every entry of the first axis is judged alone.

    ``rounding`` broadcasts to the array: differences that any implementation may have, because
    the recorded numbers were rounded before they were used. What is beyond is judged by the
    magnitude of the array itself, also where that is the rest of a cancellation.
    """

    array: str
    value: Any
    what: str
    note: str = ""
    bound: float = BOUND
    per_step: bool = False
    rounding: Tensor | float = 0.0


class Golden:
    """The recorded numbers, the crystals they belong to, and the imported models."""

    def __init__(self, work: Path) -> None:
        self.files = {p.stem: np.load(p) for p in sorted(reference("golden").glob("*.npz"))}
        self.folders = {}
        for path in sorted(reference("checkpoints").glob("*.ckpt")):
            name = path.stem.removesuffix("_small")
            vae = checkpoint("vae_dng") if "ldm" in name else None
            self.folders[name] = convert(path, work / name, vae=vae)
        self.flat = Crystals(
            self.get("batch", "atom_types"),
            self.get("batch", "frac_coords"),
            self.get("batch", "lattices"),
            self.get("batch", "num_atoms"),
            {"band_gap": self.get("batch", "band_gap_used")},
            [str(i) for i in range(16)],
        )
        self.batch = self.flat.batch(torch.arange(len(self.flat)))

    def get(self, file: str, array: str) -> Tensor:
        """Return a recorded array."""
        return torch.from_numpy(self.files[file][array])

    def dense(self, flat: Tensor) -> Tensor:
        """Pad ``(A, ...)`` to ``(B, N, ...)``."""
        mask = self.batch.mask
        padded = torch.zeros(*mask.shape, *flat.shape[1:], dtype=flat.dtype)
        padded[mask] = flat
        return padded

    def draws(self, file: str, mode: str) -> dict[str, list[Tensor]]:
        """Return the random numbers that a loss consumed, by kind, in order."""
        found: dict[str, list[Tensor]] = {}
        for name in sorted(self.files[file].files):
            if name.startswith(f"loss_{mode}_draw"):
                found.setdefault(name.split("_", 3)[3], []).append(self.get(file, name))
        return found

    def augmented(self, draws: dict[str, list[Tensor]]) -> CrystalBatch:
        """Apply the published augmentation: one translation and one rotation for all crystals."""
        from chemeleon.crystals.augment import rotate, rotation_matrices, translate

        shift = (draws["normal"][0] / 2) @ torch.linalg.inv(self.batch.lattice)
        rotation = rotation_matrices(draws["rand"][0])
        return rotate(translate(self.batch, shift), rotation)


@contextlib.contextmanager
def fused_gelu() -> Iterator[None]:
    """Let the models use the exact GELU, as PyTorch's fused encoder does without gradients."""
    gelu = torch.nn.functional.gelu
    with mock.patch("torch.nn.functional.gelu", lambda x, approximate="none": gelu(x)):
        yield


def difference(
    ours: Any,
    theirs: Tensor,
    per_step: bool = False,
    rounding: Tensor | float = 0.0,
) -> float:
    """Return the largest difference over the largest magnitude; infinite if shapes differ.

    What is not finite in both is equal.
    """
    value = torch.as_tensor(ours).detach().to(torch.float64)
    wanted = theirs.to(torch.float64)
    if value.shape != wanted.shape:
        return float("inf")
    if per_step:
        return max(difference(a, b) for a, b in zip(value, wanted, strict=True))
    if wanted.numel() == 0:
        return 0.0
    undefined = ~torch.isfinite(value) & ~torch.isfinite(wanted)
    value, wanted = value.masked_fill(undefined, 0), wanted.masked_fill(undefined, 0)
    scale = float(wanted.abs().max()) or 1.0
    return float(((value - wanted).abs() - rounding).clamp_min(0).max()) / scale


def rows(work: Path) -> list[Row]:
    """Compare everything; imported models go to the folder ``work``."""
    from parity_ldm import ldm_arrays
    from parity_rl import rl_arrays
    from parity_vae import other_arrays, vae_arrays

    golden = Golden(work)
    torch.manual_seed(0)
    found: dict[str, list[Found]] = {
        "vae_dng": list(vae_arrays(golden, "vae_dng")),
        "vae_csp": list(vae_arrays(golden, "vae_csp")),
        "ldm_null": list(ldm_arrays(golden, "ldm_null")),
        "ldm_composition": list(ldm_arrays(golden, "ldm_composition")),
        "rl_ddim": list(rl_arrays(golden)),
        **{file: list(arrays) for file, arrays in other_arrays(golden).items()},
    }
    table = []
    for file, arrays in golden.files.items():
        entries = found.get(file, [])
        for name in arrays.files:
            hits = [entry for entry in entries if entry.array == name]
            for hit in hits:
                theirs = golden.get(file, name)
                exact = not theirs.is_floating_point()
                error = difference(hit.value, theirs, hit.per_step, hit.rounding)
                bound = 0.0 if exact else hit.bound
                table.append(Row(file, name, hit.what, error, bound, hit.note))
            if not hits:
                table.append(Row(file, name, "", None, 0.0, _reason(file, name)))
        unknown = {entry.array for entry in entries} - set(arrays.files)
        table += [Row(file, name, "no such array", float("inf"), 0.0) for name in sorted(unknown)]
    return table


def _reason(file: str, name: str) -> str:
    """Say why an array is not compared; empty if there is no good reason."""
    if file in LATER_FILES or (file == "functions" and name.startswith(LATER_ARRAYS)):
        return LATER
    if file == "predictor" and name.startswith("reward"):
        return LATER
    if file == "rl_ddim" and name in ("mask", "num_atoms", "rewards"):
        return "input, not a result"
    if name.startswith("w.") or name in MORE_INPUTS or any(part in name for part in INPUTS):
        return "input, not a result"
    if name.endswith("fa_loss"):
        return "optional alignment term, which is not part of this package (recorded value 0)"
    if name.endswith("loss_atom_types"):
        return "csp has no types term (recorded value 0)"
    if name.endswith(("_zT_flat", "_noise")):
        return "input, not a result"
    return ""
