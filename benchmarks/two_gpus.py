"""Time LDM training and sampling on one GPU and on two of the same host, through accelerate.

    python benchmarks/two_gpus.py [--steps 400] [--num 10000]

Training is `chemeleon ldm train` (DiT-B and the published VAE's encoder, 256 crystals per GPU)
under `accelerate launch`; sampling is `Pipeline.generate`, the way `chemeleon sample` shares its
work, from the first to the last process. Prints crystals per second and their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sample import train
from train_step import logged

from chemeleon.generation.pipeline import Pipeline


def launch(processes: int, *words: str) -> None:
    """Run something on this many GPUs."""
    if processes > 1:
        start = ["accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "bf16"]
        words = (*start, "--num_processes", str(processes), "--num_machines", "1", *words)
    elif words[0] == "-m":
        words = words[1:]
    module = [] if words[0].endswith(".py") else ["-m"]
    subprocess.run([sys.executable, *module, *words], check=True, stdout=subprocess.DEVNULL)


def worker(model: Path, num: int, answer: Path) -> None:
    """Make crystals as one of several processes and write down how long all of them took."""
    from accelerate import PartialState

    state = PartialState()
    pipeline = Pipeline.from_pretrained(model, state.device)
    share: dict[str, Any] = {"rank": state.process_index, "world": state.num_processes}
    pipeline.generate(num, seed=1, **share)  # warm-up
    times = []
    for seed in (2, 3, 4):
        state.wait_for_everyone()
        torch.cuda.synchronize()
        start = time.perf_counter()
        pipeline.generate(num, seed=seed, **share)
        torch.cuda.synchronize()
        state.wait_for_everyone()
        times.append(time.perf_counter() - start)
    if state.is_main_process:
        answer.write_text(str(statistics.median(times)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--worker", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], arguments.num, arguments.worker[1])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(folder, 100)
        words = ["data.name=mp", "data.download=null", "data.targets=[]"]
        words += ["trainer.tracker=none", f"trainer.log_every={arguments.steps // 20}"]
        words += ["trainer.val_every_epochs=1000000", f"trainer.max_steps={arguments.steps}"]
        words += [f"ldm.vae_ckpt_path={folder / 'vae'}"]
        rates: dict[str, list[float]] = {"LDM training": [], "sampling": []}
        for count in (1, 2):
            out = folder / f"ldm-{count}"
            command = ("ldm", "train", "--preset", "mp_20/null", "-o", str(out), *words)
            launch(count, "-m", "chemeleon", *command)
            rates["LDM training"].append(statistics.median(logged(out)))
            answer = folder / f"seconds-{count}"
            launch(
                count, __file__, "--num", str(arguments.num), "--worker", str(model), str(answer)
            )
            rates["sampling"].append(arguments.num / float(answer.read_text()))
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
        for what, (one, two) in rates.items():
            print(f"{what}: one {one:,.0f}/s, two {two:,.0f}/s, {two / one:.2f} x", flush=True)


if __name__ == "__main__":
    main()
