"""Requests that make no sense or ask for too much, and text that would steer a terminal.

A refusal is one line and exit code 2, before a model is read.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.registry import find
from chemeleon.cli import app as commands
from chemeleon.config import presets
from chemeleon.config.launched import is_first, tell_if_alone
from chemeleon.config.requests import MAX_SEED, whole_number
from chemeleon.crystals.random import make_keys, torch_seed
from chemeleon.crystals.symbols import space_group_number
from chemeleon.data.prepare import prepare
from chemeleon.energy.potentials import load_potential
from chemeleon.errors import CheckpointError, ChemeleonError, ConfigError, printable, visible
from chemeleon.evaluation.evaluate import Settings
from chemeleon.models.pretrained import find_device
from chemeleon.storage import at_home, is_there
from chemeleon.terminal import Terminal
from chemeleon.training.reconstruct import reconstruct

runner = CliRunner()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-n", "99999999999999"], "99,999,999,999,999 crystals are requested"),
        (["-n", "9" * 4000], "about 10^4000 crystals"),
        (["-n", "600000", "--formula", "NaCl", "--formula", "KCl"], "1,200,000 crystals"),
        (["--formula", ""], "it has no atoms"),
        (["--formula", "Na999999999"], "requests 999,999,999 atoms"),
        (["--formula", "Na" * 5000], "it has 10,000 letters"),
        (["--formula", "NaCl", "--formula-units", "999999999"], "formula units must be from 1 to"),
        (["--formula", "NaCl", "--formula-units", "²"], "--formula-units takes whole numbers"),
        (["--num-atoms", "1000000000"], "requests 1,000,000,000 atoms"),
        (["--num-atoms", "1_0"], "--num-atoms takes whole numbers"),
        (["--num-atoms", "１０"], "--num-atoms takes whole numbers"),
        (["--batch-size", "²"], "--batch-size takes a positive number or auto"),
        (["--batch-size", "9" * 5000], "--batch-size takes a positive number or auto"),
        (["--seed", "-1"], "seed must be from 0 to 18,446,744,073,709,551,615, got -1"),
        (["--seed", "18446744073709551616"], "seed must be from 0 to"),
        (["--relax", "1000000000"], "relax must be from 0 to 10,000"),
        (["--guidance", "nan"], "guidance must be from 0 to 1,000, got nan"),
        (["--guidance", "1e300"], "guidance must be from 0 to"),
        (["--steps", "0"], "steps: Input should be greater than 0"),
        (["--temperature", "nan"], "temperature: "),
        (["--eta", "inf"], "eta: "),
    ],
)
def test_a_sample_is_refused_before_its_model_is_read(words, text, tmp_path):
    result = runner.invoke(commands.app, ["sample", "-m", str(tmp_path / "no_model"), *words])
    assert isinstance(result.exception, ConfigError), result.exception
    assert text in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "-n", "1e12"],
        ["sample", "--relax", "1e9"],
        ["sample", "--seed", "1.5"],
        ["data", "prepare", "x", "-o", "y", "--seed", "-1"],
    ],
)
def test_what_is_no_number_is_a_usage_error(words):
    assert runner.invoke(commands.app, words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"jobs": 100_000}, "jobs must be from 1 to 1,024, got 100,000"),
        ({"jobs": 0}, "jobs must be from 1"),
        ({"seconds_per_pair": float("inf")}, "seconds_per_pair must be from 0 to 86,400"),
        ({"seconds_per_pair": float("nan")}, "seconds_per_pair=nan must be positive"),
        ({"relax_steps": 10**9}, "relax_steps must be from 0 to 10,000"),
        ({"control_energies": 10**18}, "control_energies must be from 0 to 1,000,000"),
    ],
)
def test_an_evaluation_has_bounds(words, text):
    with pytest.raises(ConfigError, match=text):
        Settings(**words).check()


def test_other_requests_have_bounds(tmp_path):
    with pytest.raises(ConfigError, match="batch_size must be from 1 to"):
        reconstruct("nowhere", "demo", batch_size=10**12)
    with pytest.raises(ConfigError, match="seed must be from 0 to"):
        prepare(tmp_path / "a.csv", tmp_path / "out", seed=2**64)
    with pytest.raises(ConfigError, match=r"limits.bytes: Input should be greater than 0, got 0"):
        prepare(tmp_path / "a.csv", tmp_path / "out", limits={"bytes": 0})
    with pytest.raises(ConfigError, match="this holds what is no Unicode"):
        prepare(tmp_path / "a.csv", tmp_path / "out", where="\udcff")
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        presets.parse_override("a." * 3000 + "b=1")
    with pytest.raises(ConfigError, match="there is no space group 999"):
        space_group_number("999")
    with pytest.raises(ConfigError, match="neither the number of a space group"):
        space_group_number("²")
    for device in ("meta", "cuda:99", "nonsense", "hpu"):
        with pytest.raises(ChemeleonError, match=f"device '{device}' cannot be used"):
            find_device(device)
    for name in ("..:x", ".a:x", "math:pi.x"):
        with pytest.raises(ConfigError, match="potential"):
            load_potential(name)


def test_names_that_the_hub_cannot_have():
    names = ["a/..", "../x", "-a/b", "a--b/c", "a/.git", "a/b.git", "a/" + "b" * 97, "a//b"]
    for name in [*names, "a/b@../x", "a/b@\udcff", "mp_20_vae@..", "mp_20_vae@\x1b"]:
        with pytest.raises(CheckpointError):
            find(f"hub:{name}")
    for empty in ("hub:", "${hub:}"):
        with pytest.raises(CheckpointError, match="the hub list has no"):
            find_model(empty)
    assert find("hub:me/my-model.v2@refs/pr/1").entry.revision == "refs/pr/1"


def test_seeds_are_the_64_bits_that_can_be_told_apart():
    ids = torch.arange(3)
    seeds = (0, 1, 2**31, 2**63 - 1, 2**63, MAX_SEED)
    assert len({tuple(make_keys(seed, ids).tolist()) for seed in seeds}) == len(seeds)
    assert len({torch_seed(seed, 7, 24) for seed in seeds}) == len(seeds)
    assert torch_seed(42, 7, 24) == (42 << 24) + 7  # as runs have always been seeded
    torch.Generator().manual_seed(torch_seed(MAX_SEED, 7, 32))
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(ConfigError, match="seed must be from 0 to"):
            make_keys(seed, ids)
        with pytest.raises(ConfigError, match="seed: "):
            presets.load("vae", "demo/dng", overrides=[f"seed={seed}"])
    assert presets.load("vae", "demo/dng", overrides=[f"seed={MAX_SEED}"]).config.seed == MAX_SEED


def test_whole_numbers_are_plain_digits():
    assert whole_number("-12") == -12
    assert [whole_number(x) for x in ("²", "1_0", "１", "", "1.0", "9" * 31, "\n1")] == [None] * 7


def test_paths_that_no_system_takes_are_not_there():
    assert not is_there(at_home("~nobody-of-this-name/x"))
    assert not is_there(at_home("a" * 5000))


def test_text_of_any_origin_is_shown_and_not_obeyed():
    hostile = "\x1b[31m[red]a[/red]\x07\u202e:smile:[/x]\ud800"
    assert printable(hostile) == "\\x1b[31m[red]a[/red]\\x07\\u202e:smile:[/x]\\ud800"
    assert printable("\udcff\n") == "\\xff\\n"
    assert visible("a\nb\r") == "a\nb\\r"
    out = io.StringIO()
    console = Terminal(file=out, width=200, force_terminal=True, color_system=None)
    from rich.table import Table

    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(hostile)
    console.print(table)
    console.print(hostile)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("\\x1b[31m[red]a[/red]") == 4
    assert ":smile:[/x]" in shown


@pytest.fixture
def main(monkeypatch):
    """Run the command, whose work raises an error, and return the exit code."""

    def run(error: BaseException) -> object:
        def work() -> None:
            raise error

        monkeypatch.setattr(commands, "app", work)
        logger = logging.getLogger("chemeleon")
        try:
            with pytest.raises(SystemExit) as ended:
                commands.main()
        finally:
            logger.handlers.clear()
            logger.propagate = True
        return ended.value.code

    return run


def test_the_last_resort_is_one_line(main, capsys):
    short = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nat ...")
    for error, code, text in (
        (ChemeleonError("no \x1b[31mmodel"), 2, "error: no \\x1b[31mmodel\n"),
        (RecursionError("deep"), 2, "error: what was given is nested too deeply to be read\n"),
        (MemoryError(), 2, "error: memory is short (no more can be had): request fewer crystals,"
         " a smaller batch or a smaller model\n"),
        (short, 2, "error: memory is short ([enforce fail] DefaultCPUAllocator: can't allocate"
         " memory): request fewer crystals, a smaller batch or a smaller model\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ):  # fmt: skip
        assert main(error) == code
        assert capsys.readouterr().err == text


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def work() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "app", work)
    with pytest.raises(RuntimeError, match="a bug"):
        commands.main()
    logging.getLogger("chemeleon").handlers.clear()
    logging.getLogger("chemeleon").propagate = True


def test_letters_that_an_output_cannot_hold_are_escapes():
    code = (
        "from chemeleon.cli import app; from chemeleon.terminal import Terminal;"
        "app.app = lambda: Terminal().print('\\u00e9\\ud800\\x1b'); app.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout == b"\\xe9\\ud800\\x1b\n", done.stderr


def launched(monkeypatch, caplog, **names: str) -> str:
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    caplog.clear()
    tell_if_alone()
    return caplog.text


def test_a_process_that_accelerate_left_alone_says_so(monkeypatch, caplog):
    alone = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}
    said = launched(monkeypatch, caplog, **alone)
    assert "accelerate launch started this process alone" in said
    assert "--multi_gpu --num_processes N" in said
    for others in (
        {},
        {"ACCELERATE_MIXED_PRECISION": "no"},  # one process was asked for
        {"MASTER_PORT": "29500"},  # of something else
        {**alone, "WORLD_SIZE": "2"},
        {**alone, "PMI_SIZE": "2"},
    ):
        assert launched(monkeypatch, caplog, **others) == ""


def test_the_first_of_several_speaks_and_one_alone_does(monkeypatch):
    for world, rank, expected in ((None, None, True), (None, "1", True), ("1", "1", True),
                                  ("2", "0", True), ("2", "1", False)):  # fmt: skip
        for name, value in (("WORLD_SIZE", world), ("RANK", rank)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert is_first() == expected
        done = runner.invoke(commands.app, ["vae", "presets"])
        assert done.exit_code == 0
        assert bool(done.stdout) == expected


@pytest.mark.slow
def test_accelerate_really_leaves_it_alone(tmp_path, tiny_ldm):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    sample = ["sample", "-m", str(tiny_ldm), "-n", "2", "--steps", "2", "-o"]
    for count, words, times in (
        ("2", [*sample, str(tmp_path / "two")], 1),
        ("2", ["ldm", "train", "--resume", str(tiny_ldm)], 1),
        ("1", [*sample, str(tmp_path / "one")], 0),
    ):
        command = [*launch, count, "-m", "chemeleon", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.count("accelerate launch started this process alone") == times
