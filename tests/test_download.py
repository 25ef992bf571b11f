"""Downloads from a loopback server: whole, broken, resumed, missing, wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from data_server import Server, serving

from chemeleon.config.schema import DataConfig
from chemeleon.data.download import download
from chemeleon.errors import DataError

ROWS = {"train": 200, "val": 20}


def content(split: str, rows: int) -> bytes:
    cif = '"data_x\n' + "line of a crystal file\n" * 40 + '"'
    lines = [f"{split}-{i},{cif}" for i in range(rows)]
    return ("material_id,cif\n" + "\n".join(lines) + "\n").encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving({f"/data/set/{s}.csv": content(s, n) for s, n in ROWS.items()}) as server:
        monkeypatch.setenv("CHEMELEON_DATA_URL", server.address)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def config() -> DataConfig:
    url = "https://example.org/data/set/{split}.csv"
    return DataConfig.model_validate({"name": "set", "download": {"url": url, "rows": ROWS}})


def test_whole_set_and_nothing_twice(server: Server, config: DataConfig, tmp_path: Path) -> None:
    folder = download(config, tmp_path)
    assert folder == tmp_path / "set"
    for split in ROWS:
        assert (folder / f"{split}.csv").read_bytes() == server.files[f"/data/set/{split}.csv"]
    assert len(server.asked) == 2
    download(config, tmp_path)
    assert len(server.asked) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["train.csv", "val.csv"]


def test_broken_download_goes_on(server: Server, config: DataConfig, tmp_path: Path) -> None:
    server.break_after = [1000, 2000, 3000]
    with pytest.raises(DataError, match=r"ended early; what has arrived is kept: run the same"):
        download(config, tmp_path)
    assert (tmp_path / "set" / "train.csv.part").stat().st_size == 6000
    assert not (tmp_path / "set" / "train.csv").exists()
    download(config, tmp_path)
    assert (tmp_path / "set" / "train.csv").read_bytes() == server.files["/data/set/train.csv"]
    assert [wanted for _, wanted in server.asked[:4]] == [
        None,
        "bytes=1000-",
        "bytes=3000-",
        "bytes=6000-",
    ]


def test_server_without_ranges(server: Server, config: DataConfig, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after = [1000]
    download(config, tmp_path)
    assert (tmp_path / "set" / "train.csv").read_bytes() == server.files["/data/set/train.csv"]


def test_part_that_is_too_long_is_thrown_away(
    server: Server, config: DataConfig, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "val.csv.part").write_bytes(b"x" * 1_000_000)
    download(config, tmp_path)
    assert (tmp_path / "set" / "val.csv").read_bytes() == server.files["/data/set/val.csv"]


def test_missing_file(server: Server, config: DataConfig, tmp_path: Path) -> None:
    del server.files["/data/set/val.csv"]
    with pytest.raises(DataError, match=r"val\.csv answers 404 .*CHEMELEON_DATA_URL"):
        download(config, tmp_path)
    assert (tmp_path / "set" / "train.csv").exists()


@pytest.mark.parametrize("rows", [150, 201])
def test_wrong_rows_keep_nothing(
    server: Server, config: DataConfig, tmp_path: Path, rows: int
) -> None:
    server.files["/data/set/train.csv"] = content("train", rows)
    with pytest.raises(DataError, match=f"holds {rows} crystals instead of 200"):
        download(config, tmp_path)
    assert not (tmp_path / "set").exists()


def test_changed_file_is_fetched_again(server: Server, config: DataConfig, tmp_path: Path) -> None:
    folder = download(config, tmp_path)
    (folder / "val.csv").write_bytes(content("val", 7))
    download(config, tmp_path)
    assert (folder / "val.csv").read_bytes() == server.files["/data/set/val.csv"]


def test_no_network(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_DATA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match=r"could not be fetched: .*check the network") as caught:
        download(config, tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CHEMELEON_DATA_URL", "file:///etc")
    with pytest.raises(DataError, match="must start with http"):
        download(config, tmp_path)


def test_set_without_address(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no public address"):
        download(DataConfig.model_validate({"name": "mine"}), tmp_path)
