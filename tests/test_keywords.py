"""Options that are declared once: as keywords, with their documentation, and in the terminal."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.config.keywords import texts
from chemeleon.data.settings import PrepareSettings
from chemeleon.errors import ConfigError
from chemeleon.evaluation.settings import CompareSettings, EvaluateSettings
from chemeleon.generation.settings import SampleSettings
from chemeleon.reinforcement.flywheel.settings import FlywheelSettings

VERBS = [
    (chemeleon.sample, SampleSettings),
    (chemeleon.evaluate, EvaluateSettings),
    (chemeleon.compare, CompareSettings),
    (chemeleon.prepare, PrepareSettings),
    (chemeleon.rl.flywheel, FlywheelSettings),
]


@pytest.mark.parametrize(("verb", "settings"), VERBS)
def test_every_keyword_is_explained_and_has_its_default(verb, settings):
    parameters = inspect.signature(verb).parameters
    said = texts(settings)
    for field in fields(settings):
        assert said[field.name].strip()
        assert f"    {field.name}: {said[field.name]}" in verb.__doc__
        assert field.name in parameters
    assert {name for name in said if name not in parameters} == set()
    assert "ChemeleonError" in verb.__doc__


def test_an_unknown_keyword_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'stpes'; did you mean 'steps'"):
        chemeleon.sample(stpes=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="'reference'; did you mean 'references'"):
        chemeleon.compare(["a"], reference=["demo"])  # pyright: ignore[reportCallIssue]


def test_n_is_num_samples_in_short():
    assert SampleSettings(n=3).num_samples == 3
    assert SampleSettings(num_samples=4).num_samples == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--precision", "bf1"],
            "--precision bf1: must be auto, fp32 or bf16; did you mean 'bf16'",
        ),
        (["--guidance-interval", "0.2"], "--guidance-interval takes two numbers such as 0.2,0.8"),
        (["--condition", "gap"], "--condition takes NAME=VALUE such as band_gap=2.0, got 'gap'"),
        (["--condition", "a=1", "--condition", "a=2"], "--condition a is given twice"),
    ],
)
def test_words_of_the_terminal_are_checked(words, text):
    result = CliRunner().invoke(app, ["sample", *words])
    assert isinstance(result.exception, ConfigError)
    assert text in str(result.exception)


def test_the_package_lists_its_verbs_and_says_that_it_is_typed():
    assert {"sample", "evaluate", "compare", "prepare", "vae", "ldm", "rl"} <= set(dir(chemeleon))
    assert all(getattr(chemeleon, name) is not None for name in dir(chemeleon))
    assert (Path(chemeleon.__file__).parent / "py.typed").is_file()
