"""How well a VAE gives crystals back, by the code that judges crystal structure prediction.

Latents are the posterior means. Match rate and RMSE are CDVAE's (arXiv:2110.06197, section 5.1).
Nothing here imports torch at module level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemeleon.config.requests import MAX_CRYSTALS, MAX_JOBS, check_range
from chemeleon.data.problems import OnError


def reconstruct(
    model: str | Path,
    dataset: str,
    *,
    split: str | None = None,
    batch_size: int = 256,
    device: str | None = None,
    jobs: int | None = None,
    on_error: OnError = "few",
) -> dict[str, Any]:
    """Encode and decode every crystal of a split, and match the result with the original.

    Args:
        model: run or model folder, or hub name.
        dataset: data set, data set and split, or path, and an expression; see `data.named`.
        split: train, val or test; by default the one in the name, else test.
        batch_size: crystals at a time.
        device: torch's name; a GPU is used if there is one.
        jobs: matching processes; all cores if None.
        on_error: how many rows may be bad.

    Raises:
        ConfigError: for a useless batch size or number of processes, or a split that is not the one
            in the name.
        CheckpointError: if there is no VAE there.
        DataError: if there is no such data set.
    """
    import torch

    from chemeleon.crystals.orbit_sets import with_all_atoms
    from chemeleon.data.named import find_set
    from chemeleon.evaluation.matching.pairs import TOLERANCES, match_pairs
    from chemeleon.evaluation.metrics.statistics import finite, share
    from chemeleon.models.pretrained import place
    from chemeleon.models.vae import CrystalVAE

    check_range("batch_size", batch_size, 1, MAX_CRYSTALS)
    if jobs is not None:
        check_range("jobs", jobs, 1, MAX_JOBS)
    named = find_set(dataset, split, default="test", on_error=on_error)
    vae = place(CrystalVAE.from_pretrained(model), device)
    where = vae.frequencies.device
    crystals = vae.arranged(named.load().crystals, keep=True)
    pairs = []
    for begin in range(0, len(crystals), batch_size):
        rows = torch.arange(begin, min(begin + batch_size, len(crystals)))
        batch = crystals.batch(rows).to(where)
        with torch.no_grad():
            decoded = vae.decode(vae.encode(batch).mean, batch)
            found = vae.to_crystals(decoded, batch)
        pairs += list(zip(found, with_all_atoms(batch.to("cpu").flatten()), strict=True))
    result = match_pairs(pairs, "cdvae", jobs)
    ltol, stol, angle_tol = TOLERANCES["cdvae"]
    return {
        "model": str(model),
        "dataset": dataset,
        "split": named.split,
        "crystals": len(pairs),
        "matcher": {"name": "cdvae", "ltol": ltol, "stol": stol, "angle_tol_degree": angle_tol},
        "match_rate": share(int(result.matched.sum()), len(pairs)),
        "rmse": finite(result.mean_rmse),
        "timed_out": int(result.timed_out.sum()),
    }
