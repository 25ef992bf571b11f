"""Files of our own that somebody or something has changed, and cells that spreadsheets obey."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pandas
import pytest
import torch
from conftest import demo_crystals
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save_file

from chemeleon.checkpoints.store import STATE
from chemeleon.config.plain_json import parse_json
from chemeleon.config.schema import OptimConfig
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.files import write_structures
from chemeleon.data import cache
from chemeleon.data.building import parse_source
from chemeleon.data.parse import BadCrystalError, parse
from chemeleon.data.prepare import prepare
from chemeleon.data.tables import cell, open_table, safe_cells, write_rows
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_tables import from_entries, read_references
from chemeleon.errors import CheckpointError, DataError
from chemeleon.evaluation import reference
from chemeleon.evaluation.collection import read_collection
from chemeleon.evaluation.matching.grouping import prepare as reduce
from chemeleon.evaluation.origin import sample_manifest, told
from chemeleon.training import state
from chemeleon.training.launch import TrainResult
from chemeleon.training.schedule import LearningRate
from chemeleon.training.tracking import METRICS, read_metrics
from chemeleon.training.weights import Weights

ODD = (None, -1, 10**30, 0.5, "x", "\ud800", [], [[]], {"a": 1}, float("nan"))
HOSTILE = ["=1+1", "+1+1", "-1-1", "@SUM(1)", "\t=1", "\r=1", "'=1", "''@x", "＝1", "-", "=", "a=1",
           "'a", "-5", "+.5e3", "", "a,\"b\"\nc", "\x1b[31m"]  # fmt: skip


def crystals(count: int = 3):
    return to_structures(demo_crystals("val").subset(torch.arange(count)))


# cells


def test_no_cell_begins_a_formula_and_all_come_back():
    written = [cell(text) for text in HOSTILE]
    assert not [text for text in written if text[:1] in "=@\t\r＝" and text]
    assert [text for text in written if text[:1] in ("+", "-")] == ["-5", "+.5e3"]  # are numbers
    assert cell("a=1") == "a=1"
    letters = ["=", "'", "-", "1", "a", "@"]
    rows = [
        [*HOSTILE],
        *(["".join(x)] * len(HOSTILE) for x in itertools.product(letters, repeat=4)),
    ]
    file = io.StringIO()
    write_rows(file, [[f"={i}" for i in range(len(HOSTILE))], *rows])
    table = open_table(io.BytesIO(file.getvalue().encode()), "a.csv", None)
    assert table.header == [f"={i}" for i in range(len(HOSTILE))]
    found = [row.cells for row in table.rows]
    assert found[0] == [text.replace("\r", "\n") for text in HOSTILE]
    assert found[1:] == rows[1:]


def test_tables_of_results_hold_no_formulas():
    frame = pandas.DataFrame({"id": ["=1", None, "-2", "b"], "e": [-1.5, 2, np.nan, 0]})
    frame["n"] = pandas.array([-1, None, 2, 3], dtype="Int64")
    text = safe_cells(frame).to_csv(index=False)
    assert text.splitlines() == ["id,e,n", "'=1,-1.5,-1", ",2.0,", "-2,,2", "b,0.0,3"]
    assert frame["id"][0] == "=1"  # in memory it is what it was


def test_names_are_the_same_after_prepare_and_reading(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+a", "-1", "@b", "'=c", "d\n", "\ud800"]
    (path,) = write_structures(crystals(len(names)), tmp_path, ["json"], names)
    prepare(path, tmp_path / "set", (1, 0, 0))
    found = parse_source(tmp_path / "set" / "train.csv.gz")
    assert sorted(found.ids) == sorted([*names[:5], "d", "\\ud800"])
    again = parse_source(path)
    assert cache._lines(cache._text(again.ids), len(names)) == again.ids  # of the cache


# what float32 cannot hold


@pytest.mark.parametrize(
    ("lattice", "reason"),
    [
        (np.eye(3) * 1e30, "a cell vector is 1e[+]30 angstrom long"),
        (np.eye(3) * 1e-30, "zero volume"),
        ([[1e5, 0, 0], [1e5, 1e-3, 0], [0, 0, 9]], "zero volume"),
    ],
)
def test_cells_fit_into_float32(lattice, reason):
    arrays = np.array([3]), np.zeros((1, 3)), np.array(lattice, dtype=np.float64)
    with pytest.raises(BadCrystalError, match=reason):
        parse("arrays", arrays, niggli=False)


# the state of a run


def learner() -> tuple:
    layer = torch.nn.Linear(2, 2)
    weights = Weights(list(layer.parameters()))
    optimizer = torch.optim.AdamW(weights.updated)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    average = state.Average(weights.updated, 0.9)
    return weights, optimizer, average, LearningRate(OptimConfig(), 10)


def counters_with(**changes: object) -> str:
    good = json.loads(
        json.dumps(vars(state.Counters(step=1, learning_rate={"factor": 1.0, "waiting": 0})))
    )
    return json.dumps({**good, **changes})


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    parts = learner()
    state.save(tmp_path, state.Counters(step=1), *parts)
    good, file = load_file(tmp_path / STATE), tmp_path / STATE
    assert state.load(tmp_path, *learner()).step == 1
    cases = [(good, {}), (good, {"counters": "[" * 100_000}), (good, {"counters": "[]"})]
    for changes in ({"step": "x"}, {"step": -1}, {"new_key": 1}, {"metrics": [1]},
                    {"learning_rate": {}}, {"learning_rate": {"factor": 1, "waiting": 1e400}},
                    {"best": "low"}, {"epoch": 10**30}, {"criterion": 3}):  # fmt: skip
        cases.append((good, {"counters": counters_with(**changes)}))
    for name in good:
        rest = {key: value for key, value in good.items() if key != name}
        cases.append((rest, {"counters": counters_with()}))
        cases.append(({**rest, name: torch.zeros(3, 3)}, {"counters": counters_with()}))
    for tensors, metadata in cases:
        save_file(tensors, file, metadata)
        with pytest.raises(CheckpointError) as caught:
            state.load(tmp_path, *learner())
        assert "\n" not in str(caught.value)
    save_file(good, file, {"counters": counters_with()})
    assert state.load(tmp_path, *learner()).step == 1


def test_odd_lines_of_metrics_are_left_out(tmp_path):
    good = {"step": 1, "epoch": 0, "lr": 0.1, "formulas": {"NaCl": 2}}
    odd = [good | {key: x} for key in ("step", "epoch") for x in ODD if type(x) is not int]
    odd += [good | {"lr": value} for value in ("x", [], {}, 1e200)]
    odd += [good | {"formulas": value} for value in (1, {"NaCl": "x"}, [])]
    lines = [json.dumps(row).encode() for row in [good, *odd]]
    lines += [b"\xff\xfe", b"[]", b"1", b"null", b"[" * 100_000, b"9" * 5000, b"\0", lines[0][:20]]
    (tmp_path / METRICS).write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path) == [good]
    assert TrainResult(tmp_path, None).history()["lr"].tolist() == [0.1]
    (tmp_path / METRICS).write_bytes(b"")
    assert len(TrainResult(tmp_path, None).history()) == 0


# what is kept to be quick


def mutants(value: dict) -> list[dict]:
    changed = [{**value, key: odd} for key in value for odd in ODD]
    return [*changed, *({k: v for k, v in value.items() if k != key} for key in value)]


def test_a_damaged_cache_is_made_again(tmp_path, caplog):
    (path,) = write_structures(crystals(), tmp_path, ["json"], ["a", "b", "\ud800"])
    parsed, file = parse_source(path), tmp_path / "a.safetensors"
    file.write_bytes(cache._content(parsed))
    good = load_file(file)
    details = json.loads(good["details"].numpy().tobytes())
    assert cache._read(file).ids == ["a", "b", "\ud800"]
    same = [{"problems": []}, {"text_columns": []}, {"notes": []}, {"columns": []}, {"words": {}}]
    cases = [{**good, "details": cache._text([json.dumps(m)])} for m in mutants(details)
             if not any(m == {**details, **empty} for empty in same)]  # fmt: skip
    for name, tensor in good.items():
        cases += [
            {**good, name: odd} for odd in (tensor[:-1].clone(), tensor.double(), torch.ones(2, 2))
        ]
    cases = [case for case in cases if case["details"].dtype == torch.uint8]
    for tensors in cases:
        caplog.clear()
        save_file(tensors, file)
        found = cache._read(file)
        assert found is None or found.crystals().batch(torch.arange(3)) is not None
        assert (found is None) == ("is damaged" in caplog.text)
    assert sum(1 for _ in cases) > 60


def test_a_damaged_index_of_a_reference_is_made_again(tmp_path, caplog):
    (path,) = write_structures(crystals(), tmp_path, ["json"], ["a", "b", "c"])
    collection, file = read_collection(path), tmp_path / "a.safetensors"
    reference._write(file, collection, reduce(collection.crystals))
    good = load_arrays(file)
    words = json.loads(good["words"].tobytes())
    assert reference._read(file)[0].ids == ["a", "b", "c"]
    packed = [np.frombuffer(json.dumps(m).encode(), np.uint8) for m in mutants(words)
              if m.get("left_out") not in (-1, 10**30)]  # fmt: skip
    cases = [{**good, "words": array} for array in packed]
    for name, array in good.items():
        cases += [{**good, name: odd} for odd in (array[:-1], array.astype("f4"), np.ones((2, 2)))]
    for arrays in cases:
        caplog.clear()
        file.write_bytes(save_arrays({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        assert reference._read(file) is None
        assert "is damaged" in caplog.text


def test_a_changed_manifest_is_refused_or_shown(tmp_path):
    (tmp_path / "cif").mkdir()
    file = tmp_path / "manifest.json"
    good = {
        "requested": 1,
        "formats": [],
        "invalid": [{"id": "a", "reason": "b", "written": False}],
    }
    for broken in ("x", 1, None, {"a": 1}, [1], [{}], [{"id": 1, "reason": "a"}], [{"id": "a"}]):
        file.write_text(json.dumps({**good, "invalid": broken}))
        with pytest.raises(DataError, match="does not list the invalid crystals"):
            sample_manifest(tmp_path)
    deep: list = []
    for _ in range(500):
        deep = [deep]
    file.write_text(json.dumps({**good, "guidance": float("nan"), "seed": deep, "model": "m"}))
    assert told(sample_manifest(tmp_path)) == {"guidance": None, "model": "m"}
    for text in (b"\xff", b"[" * 100_000, b"", b"9" * 5000, b"[]"):
        file.write_bytes(text)
        assert sample_manifest(tmp_path) is None


def test_a_damaged_hull_is_refused_in_one_line(tmp_path):
    file = tmp_path / "hull.json"
    Hull([(("Na", 1.0),)], [0.0], {"Na": -1.0}, {"source": "x"}).save(file)
    good = json.loads(file.read_text())
    assert len(Hull.load(file)) == 1
    keys = "manifest", "references_ev", "phases", "format"
    fine = ("phases", []), ("manifest", {"a": 1}), ("references_ev", {"a": 1})
    cases = [{**good, key: odd} for key in keys for odd in ODD if (key, odd) not in fine]
    for phase in (1, [], ["Na"], ["Na", "x"], ["Na", float("inf")], [None, 1], ["Xx", 1], [[], 0]):
        cases.append({**good, "phases": [phase]})
    cases += [{**good, "references_ev": {"Na": odd}} for odd in ("x", [], {}, 10**400)]
    for case in cases:
        file.write_text(json.dumps(case))
        with pytest.raises(DataError) as caught:
            Hull.load(file)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
    entry = {"composition": {"Na": 1}, "energy": -1.0}
    for odd in ({**entry, "energy": float("nan")}, {**entry, "composition": {"Na": "x"}}, 1, {}):
        file.write_text(json.dumps([odd]))
        with pytest.raises(DataError, match="no usable pymatgen entry"):
            from_entries(file)
        file.write_text(json.dumps({"Na": odd if odd != 1 else "x"}))
        with pytest.raises(DataError, match="is no mapping of elements"):
            read_references(file)
    file.write_text(json.dumps([entry, {"composition": {"Na": 1, "Cl": 1e30}, "energy": -1}]))
    from_entries(file).save(file)
    assert len(Hull.load(file)) == 2


def test_json_is_read_or_a_value_error():
    assert parse_json('{"a": [NaN, Infinity, 1e999, 1.5]}', finite=True) == {
        "a": [None] * 3 + [1.5]
    }
    for text in ("", "[" * 100_000, b"\xff", "9" * 5000, "nul"):
        with pytest.raises(ValueError):
            parse_json(text)
