"""One thread for small models, and all of them again for everyone else."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from ken.models.one_thread import one_thread  # noqa: E402


@pytest.fixture(autouse=True)
def _three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_count_comes_back_whatever_happens_inside() -> None:
    counts: list[int] = []

    def broken() -> None:
        with one_thread():
            counts.append(torch.get_num_threads())
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert counts == [1]
    assert torch.get_num_threads() == 3


def test_a_thread_that_begins_while_another_is_inside_does_not_stay_at_one() -> None:
    counts: list[int] = []

    def late() -> None:
        with one_thread():
            counts.append(torch.get_num_threads())
        counts.append(torch.get_num_threads())

    with one_thread():
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
    assert counts == [1, 3]
    assert torch.get_num_threads() == 3
