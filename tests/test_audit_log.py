"""The log of an audit survives a kill at any byte, and holds the last word on every attempt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.auditing.log import LogWriter, key_of, read_log
from ken.core import Answer, BadInput, DataError, Question, Segment, Trajectory

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TRAJECTORIES = st.builds(
    Trajectory,
    question=st.builds(
        Question, id=TEXT.filter(bool), text=TEXT.filter(str.strip), answers=st.lists(TEXT, max_size=2).map(tuple)
    ),
    strategy=TEXT,
    sample=st.none() | st.integers(0, 9),
    steps=st.lists(st.builds(Answer, text=TEXT, confidence=st.none() | st.floats(0, 1)), max_size=2).map(tuple),
    segments=st.lists(
        st.builds(Segment, role=st.just("policy"), text=TEXT, logprobs=st.just((float("-inf"), -0.5))), max_size=1
    ).map(tuple),
    error=st.none() | TEXT,
)


def trajectory(name: str = "q", answer: str = "a", error: str | None = None) -> Trajectory:
    return Trajectory(
        question=Question(id=name, text="?"), strategy="direct", steps=(Answer(text=answer),), error=error
    )


def written(path: Path, *trajectories: Trajectory) -> Path:
    log = LogWriter(path)
    for one in trajectories:
        log.write(one)
    log.close()
    return path


@given(st.lists(TRAJECTORIES, max_size=4))
def test_what_is_written_is_read_the_last_of_each_key(tmp_path_factory, trajectories):
    path = written(tmp_path_factory.mktemp("log") / "log.jsonl", *trajectories)
    assert read_log(path, segments=True) == {key_of(t): t for t in trajectories}
    assert all(t.segments == () for t in read_log(path).values())


@given(st.lists(TRAJECTORIES, min_size=1, max_size=3), st.data())
def test_a_kill_at_any_byte_loses_at_most_the_last_line_and_the_next_run_goes_on(tmp_path_factory, trajectories, data):
    path = written(tmp_path_factory.mktemp("log") / "log.jsonl", *trajectories)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1  # of the last line
    path.write_bytes(whole[: data.draw(st.integers(start, len(whole) - 1))])
    assert read_log(path) == read_log(written_before(path, whole[:start]))
    written(path, trajectories[-1])
    assert path.read_bytes() == whole


def written_before(path: Path, content: bytes) -> Path:
    other = path.with_name("before.jsonl")
    other.write_bytes(content)
    return other


def test_a_torn_line_longer_than_any_buffer_is_cut(tmp_path):
    path = written(tmp_path / "log", trajectory("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 200_000)
    written(path)
    assert path.read_bytes() == whole


def test_an_edited_line_is_reported_with_file_and_line(tmp_path):
    path = written(tmp_path / "log.jsonl", trajectory("a"), trajectory("b"), trajectory("c"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"strategy"', b'"strtegy"') + lines[2])
    with pytest.raises(DataError, match=r"log\.jsonl:2: not a trajectory") as caught:
        read_log(path)
    assert caught.value.line == 2


def test_the_last_attempt_of_a_key_wins(tmp_path):
    path = written(tmp_path / "log", trajectory("a", error="down"), trajectory("b"), trajectory("a", answer="now"))
    assert [(t.question.id, t.answer, t.error) for t in read_log(path).values()] == [
        ("a", "now", None),
        ("b", "a", None),
    ]


def test_two_writers_cannot_share_a_log(tmp_path):
    log = LogWriter(tmp_path / "log")
    with pytest.raises(BadInput, match="another audit is writing"):
        LogWriter(tmp_path / "log")
    log.close()
    LogWriter(tmp_path / "log").close()


def test_a_full_disk_is_one_sentence():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    log = LogWriter(Path("/dev/full"))
    with pytest.raises(BadInput, match="No space left"):
        log.write(trajectory())


def test_no_log_is_an_empty_log(tmp_path):
    assert read_log(tmp_path / "none") == {}
