"""Time CIF text to cached tensors, as the first start of a training does it.

    CHEMELEON_DATA=data python benchmarks/data_processing.py [mp_20]

The original Chemeleon2 code was measured at 370 to 380 crystals/s on 2 cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

from chemeleon.config.presets import load_data
from chemeleon.data.dataset import load_split


def main() -> None:
    """Parse, then read the cache."""
    config = load_data(sys.argv[1] if len(sys.argv) > 1 else "mp_20")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CHEMELEON_CACHE"] = cache
        start = time.perf_counter()
        crystals = load_split(config, "train")
        parsed = time.perf_counter()
        load_split(config, "train")
        read = time.perf_counter()
    rate = len(crystals) / (parsed - start)
    print(
        f"{config.name}: {len(crystals)} crystals in {parsed - start:.1f} s = {rate:.0f}/s on"
        f" {os.cpu_count()} cores ({rate / 370:.1f} x the original); from cache"
        f" {read - parsed:.2f} s"
    )


if __name__ == "__main__":
    main()
