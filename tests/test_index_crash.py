"""`kill -9` at any moment of a build or a change: the old index stays readable, and a second run completes.

The victim is a real process. It says on a pipe where it is and waits there: the kill always strikes the same moment.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ken.core import Passage, SourceError
from ken.sources.search import storage
from ken.sources.search.index import Index

PRELUDE = """
import sys
from ken.core import Passage
from ken.sources import generations
from ken.sources.search import index as module
from ken.sources.search.index import Index

def here():
    print("here", flush=True)
    sys.stdin.read()

def documents(word, n, stop=None):
    for i in range(n):
        if i == stop:
            here()
        yield Passage(id=f"{word}{i}", text=f"common {word} number{i}")
"""

OLD = [Passage(id=f"old{i}", text=f"common old number{i}") for i in range(50)]


@contextmanager
def victim(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `code` and has arrived at its `here()`; killed at the end, if it is still there."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def kill(code: str, *arguments: object) -> None:
    with victim(code, *arguments) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def generations(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.glob("gen-*"))


MOMENTS = {
    "before the first document": 'Index.build(documents("new", 15_000, stop=0), sys.argv[1])',
    "in the middle": 'Index.build(documents("new", 15_000, stop=12_000), sys.argv[1])',
    "before the manifest is written": (
        "module.write_manifest = lambda *_: here()\n"
        'Index.build(documents("new", 15_000), sys.argv[1])'
    ),
    "between writing the manifest and renaming it": (
        "original = module.write_manifest\n"
        "def write(*args):\n"
        "    generations.Path.replace = lambda *_: here()\n"
        "    original(*args)\n"
        "module.write_manifest = write\n"
        'Index.build(documents("new", 15_000), sys.argv[1])'
    ),
}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_rebuild_leaves_the_old_index_and_a_second_run_completes(tmp_path: Path, moment: str) -> None:
    Index.build(OLD, tmp_path / "i")
    kill(MOMENTS[moment], tmp_path / "i")
    old = Index.open(tmp_path / "i")
    assert len(old) == 50
    assert {p.id for p in old.search("common", 100)} == {p.id for p in OLD}
    new = Index.build([Passage(id=f"new{i}", text="common new") for i in range(60)], tmp_path / "i")
    assert len(new) == 60
    assert len(generations(tmp_path / "i")) == 1, "what the killed build wrote is cleared away"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_first_build_says_so_and_a_second_run_completes(tmp_path: Path, moment: str) -> None:
    kill(MOMENTS[moment], tmp_path / "i")
    with pytest.raises(SourceError, match=r"did not finish; run `ken index build` again"):
        Index.open(tmp_path / "i")
    assert len(Index.build(OLD, tmp_path / "i")) == 50
    assert len(generations(tmp_path / "i")) == 1


def test_a_build_killed_after_the_switch_has_built(tmp_path: Path) -> None:
    Index.build(OLD, tmp_path / "i")
    kill('generations._remove = lambda *_: here()\nIndex.build(documents("new", 60), sys.argv[1])', tmp_path / "i")
    assert len(generations(tmp_path / "i")) == 2
    assert len(Index.open(tmp_path / "i")) == 60
    Index.build(OLD, tmp_path / "i")
    assert len(generations(tmp_path / "i")) == 1


@pytest.mark.parametrize("change", ["add", "update"])
@pytest.mark.parametrize("stop", [0, 12_000])
def test_a_killed_change_has_not_happened_and_can_be_made_again(tmp_path: Path, change: str, stop: int) -> None:
    Index.build(OLD, tmp_path / "i")
    kill(f'Index.open(sys.argv[1]).{change}(documents("new", 15_000, stop={stop}))', tmp_path / "i")
    index = Index.open(tmp_path / "i")
    assert {p.id for p in index.search("common", 100)} == {p.id for p in OLD}
    new = [Passage(id=f"new{i}", text=f"common new number{i}") for i in range(15_000)]
    assert getattr(index, change)(new) == 15_000
    assert len(Index.open(tmp_path / "i")) == 15_050


def test_a_second_writer_is_told_to_wait_while_readers_go_on(tmp_path: Path) -> None:
    Index.build(OLD, tmp_path / "i")
    for code in (
        'Index.build(documents("new", 60, stop=30), sys.argv[1])',
        'Index.open(sys.argv[1]).add(documents("new", 60, stop=30))',
    ):
        with victim(code, tmp_path / "i"):
            index = Index.open(tmp_path / "i")
            with pytest.raises(SourceError, match="another process is writing"):
                index.add(OLD)
            with pytest.raises(SourceError, match="another process is writing"):
                index.remove(["old1"])
            with pytest.raises(SourceError, match="another process is writing"):
                Index.build(OLD, tmp_path / "i")
            assert len(index.search("common old", 100)) == 50
    assert index.remove(["old1"]) == 1, "the lock of a killed process is gone"


def test_a_first_build_killed_before_it_marked_the_folder_can_be_run_again(tmp_path: Path) -> None:
    kill("generations.Generations.write = lambda *_: here()\nIndex.build([], sys.argv[1])", tmp_path / "i")
    assert [entry.name for entry in (tmp_path / "i").iterdir()] == [".lock"]
    assert len(Index.build(OLD, tmp_path / "i")) == 50


def test_two_first_builds_at_once_do_not_mix(tmp_path: Path) -> None:
    with victim('Index.build(documents("new", 60, stop=30), sys.argv[1])', tmp_path / "i") as process:
        with pytest.raises(SourceError, match="another process is writing"):
            Index.build(OLD, tmp_path / "i")
        assert process.stdin
        process.stdin.close()  # the first goes on
        process.stdin = None
        assert process.wait() == 0
    assert {p.id[:3] for p in Index.open(tmp_path / "i").search("common", 100)} == {"new"}


def test_an_interrupted_first_build_leaves_nothing(tmp_path: Path) -> None:
    with victim('Index.build(documents("new", 60, stop=30), sys.argv[1])', tmp_path / "i") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait() != 0
    assert not (tmp_path / "i").exists()


def damage_cases() -> list[tuple[str, str]]:
    return [
        (kind, harm)
        for kind in ("manifest", "meta.json", "largest", "generation")
        for harm in ("empty", "half", "gone")
    ]


@pytest.mark.parametrize(("kind", "harm"), damage_cases())
def test_a_damaged_index_says_so_and_can_be_built_again(tmp_path: Path, kind: str, harm: str) -> None:
    folder = tmp_path / "i"
    index = Index.build([Passage(id=str(i), title=f"t{i}", text=f"common text{i} " * 20) for i in range(500)], folder)
    generation = folder / generations(folder)[0]
    del index
    targets = {
        "manifest": [folder / storage.MANIFEST],
        "meta.json": [generation / "meta.json"],
        "largest": [max(generation.iterdir(), key=lambda path: path.stat().st_size)],
        "generation": [path for path in generation.iterdir() if path.is_file()],
    }
    for path in targets[kind]:
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if harm == "half" else 0])
    with pytest.raises(SourceError, match=r"build"):
        Index.open(folder).search("common", 500)
    if kind == "manifest":
        import shutil

        shutil.rmtree(folder)  # as the message says
    assert len(Index.build(OLD, folder)) == 50


def test_manifests_of_others_and_of_the_future_are_refused(tmp_path: Path) -> None:
    index = Index.build(OLD, tmp_path / "i")
    manifest = index.path / storage.MANIFEST
    good = manifest.read_text()
    for content, message in {
        good.replace('"version": 1', '"version": 2'): "newer Ken",
        good.replace("gen-", "../gen-"): "not the manifest of a Ken index",
        '{"name": "something else"}': "not the manifest of a Ken index",
        "[]": "not the manifest of a Ken index",
    }.items():
        manifest.write_text(content)
        with pytest.raises(SourceError, match=message):
            Index.open(index.path)
        with pytest.raises(SourceError, match=message):
            Index.build(OLD, index.path)
    manifest.write_text(good)
    assert len(Index.open(index.path)) == 50
