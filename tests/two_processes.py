"""The work of `test_distributed`, one job after the other in each of two processes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from accelerate.state import AcceleratorState
from rl_helpers import train

from chemeleon.checkpoints.store import write_tensors
from chemeleon.cli.app import main
from chemeleon.training import launch

RANK = int(os.environ["RANK"])


def run(folder: Path, jobs: dict[str, list[str]]) -> None:
    """Run ``name: words`` of `chemeleon`, or of `rl_helpers.train`; what is said goes to a file."""
    for name, words in jobs.items():
        # training ends the group of processes, so each job gets one of its own, as if alone
        AcceleratorState._reset_state(reset_partial_state=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        meeting = f"file://{folder / name}.group"
        dist.init_process_group("gloo", init_method=meeting, rank=RANK, world_size=2)

        def keep(run, name=name, fit=launch.fit):
            fitted = fit(run)
            weights = run.stage.model.state_dict()
            write_tensors(folder / f"{name}.{RANK}.safetensors", weights)
            return fitted

        with (
            (folder / f"{name}.{RANK}.txt").open("w") as said,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            mock.patch.object(launch, "fit", keep),
        ):
            if name == "rl":
                train(folder / name, Path(words[0]), *words[1:])
            else:
                chemeleon(*words, "-o", str(folder / name))


def chemeleon(*words: str) -> None:
    """Run the command as the shell does."""
    with mock.patch.object(sys, "argv", ["chemeleon", *words]):
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    run(Path(sys.argv[1]), json.loads(sys.argv[2]))
