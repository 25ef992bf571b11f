"""YAML of anybody: what a config has no use for is refused in one line, whatever its size."""

from __future__ import annotations

import time

import pytest

from chemeleon.config.plain_yaml import MOST_BYTES, MOST_VALUES, dump_yaml, parse_yaml, read_yaml
from chemeleon.errors import ConfigError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
REFUSED = {
    "aliases": (BOMB, r"line 1, column 5: an anchor \(&\) or an alias"),
    "alias": ("a: *x", "column 4: an anchor"),
    "merged": ("a: &x {b: 1}\nc: {<<: *x}", "line 1, column 4: an anchor"),
    "flow depth": ("a: " + "[" * 50_000, "40 deep"),
    "block depth": ("- " * 50_000 + "1", "40 deep"),
    "mapping depth": ("{a: " * 20_000, "40 deep"),
    "object": ("a: !!python/object/apply:os.system [id]", r"column 4: a tag \(!\)"),
    "unknown tag": ("!mine a: 1", "column 1: a tag"),
    "binary": ("a: !!binary aGk=", "a tag"),
    "set": ("!!set {a, b}", "a tag"),
    "timestamp": ("a: !!timestamp 2001-01-01", "a tag"),
    "digits": ("a: " + "9" * 5000, "a whole number of 5,000 digits"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands there twice"),
    "number as key": ("1: a", "a key is no text"),
    "nothing as key": ("~: a", "a key is no text"),
    "list as key": ("? [1]\n: a", "a key is no text"),
    "documents": ("a: 1\n---\nb: 2", "line 2, column 1: a second document"),
    "NUL": ("a: \x00", r"character 4, U\+0000, cannot stand"),
    "escaped NUL": (r'a: "\0"', "a control character"),
    "escape": (r'"\e[2J": 1', "a control character"),
    "from right to left": ("a: \u202egnp", "a control character"),
    "surrogate": ("a: \ud800", r"U\+D800, cannot stand"),
    "escaped surrogate": (r'a: "\ud800"', "a control character"),
    "beyond Unicode": (r'a: "\U00110000"', "beyond Unicode"),
    "far beyond Unicode": (r'a: "\UFFFFFFFF"', "beyond Unicode"),
    "version": (f"%YAML 1.{'9' * 5000}\n---\na: 1", "behind %YAML"),
    "long tag": (f"a: !{'x' * 5000}!y 1", "undefined tag handle"),
    "unclosed": ("a: [1", "line 1, column 6: expected"),
    "values": (f"a: [{'1,' * MOST_VALUES}]", "more than 5,000 values"),
    "length": ("#" * (MOST_BYTES + 1), "over 131,072 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_config_needs_is_refused_in_one_line(name):
    text, said = REFUSED[name]
    start = time.process_time()
    with pytest.raises(ConfigError, match=said) as caught:
        parse_yaml(text, "a.yaml")
    assert time.process_time() - start < 2
    assert str(caught.value).startswith("a.yaml is ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_what_looks_alike_is_kept():
    text = """
      a: {'*': '&x', '!': "\\t\\xe9", '1': 'a: b'}
      b: [.inf, -.5, 1., +2, ~, '']
      c: |
        two
        lines
    """
    assert parse_yaml(text, "") == {
        "a": {"*": "&x", "!": "\té", "1": "a: b"},
        "b": [float("inf"), -0.5, 1.0, 2, None, ""],
        "c": "two\nlines\n",
    }
    assert parse_yaml("# nothing\n", "") is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: \xff\xfe", "is not text in UTF-8: byte 4"),
        (b"#" * (MOST_BYTES + 1), "over 131,072 bytes long"),
        ("é".encode() * MOST_BYTES, "over 131,072 bytes long"),
        (None, "is not a plain file"),
    ],
)
def test_files(data, said, tmp_path):
    path = tmp_path / "config.yaml"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"config\.yaml .*{said}"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        read_yaml(tmp_path / "nowhere")


def test_what_is_written_can_be_read() -> None:
    shared = {"a": [1.0, None], "b": {"c": "No"}}
    content = {
        "one": shared,
        "two": shared,
        "three": 1e-5,
        "hash": "1234567890123e45",
        "2e5": "012",
    }
    text = dump_yaml(content)
    assert "&" not in text
    assert parse_yaml(text, "it") == content
