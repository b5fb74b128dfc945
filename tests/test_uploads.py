"""What people uploaded outlives the server: only what was never finished is removed, and two servers never share it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from capitals import build_index, run_ken
from running import ken_serve

from ken.serving.service import Service
from ken.serving.uploads import MARKER, Uploads

TEXT = b"The capital of Peru is Lima."


def uploaded(data: Path) -> Path:
    """The folder of an index that was uploaded and finished."""
    place = data / "indexes" / "letters"
    (place / "files").mkdir(parents=True)
    (place / "files" / "a.txt").write_bytes(TEXT)
    build_index(place / "index")
    return place


def offered(data: Path) -> list[str]:
    service = Service([], data=data)
    Uploads(service)
    return list(service.indexes)


def test_what_was_being_built_when_a_server_was_killed_is_removed(tmp_path: Path) -> None:
    half = tmp_path / "indexes" / "half"
    (half / "files").mkdir(parents=True)
    (half / MARKER).touch()
    assert offered(tmp_path) == []
    assert not half.exists()


@pytest.mark.parametrize("manifest", [b'{"format": 99, "new": []}', b"", None])
def test_an_index_that_cannot_be_read_is_kept_and_its_name_is_told(
    tmp_path: Path, manifest: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be of a newer version, or have lost a file; what was uploaded is still there."""
    place = uploaded(tmp_path)
    (file,) = (place / "index").glob("*.json")
    if manifest is None:
        file.unlink()
    else:
        file.write_bytes(manifest)
    assert offered(tmp_path) == []
    assert (place / "files" / "a.txt").read_bytes() == TEXT
    assert f"{place} is kept, but not offered as an index" in caplog.text


def test_an_index_that_was_finished_when_the_server_was_killed_is_offered(tmp_path: Path) -> None:
    place = uploaded(tmp_path)
    (place / MARKER).touch()
    assert offered(tmp_path) == ["letters"]
    assert not (place / MARKER).exists()


def test_an_upload_is_offered_after_a_restart_and_what_cannot_be_read_is_in_the_log(tmp_path: Path) -> None:
    foreign = tmp_path / "ken-data" / "indexes" / "notes"
    foreign.mkdir(parents=True)
    (foreign / "mine.txt").write_text("not of Ken")
    with ken_serve(folder=tmp_path) as served:
        form = {"data": {"name": "letters"}, "files": [("files", ("a.txt", TEXT))]}
        events = httpx.post(f"{served.address}/ask/indexes", **form).json()["events"]  # type: ignore[arg-type]
        assert "event: done" in httpx.get(served.address + events, timeout=60).text
        place = tmp_path / "ken-data" / "indexes" / "letters"
        assert sorted(path.name for path in place.iterdir()) == ["files", "index"]
        served.end()
        said = [line for line in map(json.loads, served.log.splitlines()) if line["event"] == "log"]
        assert ["notes is kept" in line["message"] for line in said] == [True]
    assert (foreign / "mine.txt").exists()
    assert offered(tmp_path / "ken-data") == ["letters"]


def test_a_second_server_over_the_same_folder_ends_at_once(tmp_path: Path) -> None:
    with ken_serve("--data", "kept", folder=tmp_path) as first:
        second = run_ken("serve", "--port", 0, "--data", "kept", cwd=tmp_path)
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == "ken: kept is used by another ken serve; give another --data\n"
        assert httpx.get(f"{first.address}/healthz").status_code == 200
        first.process.kill()
        first.process.wait()
    with ken_serve("--data", "kept", folder=tmp_path):
        pass
