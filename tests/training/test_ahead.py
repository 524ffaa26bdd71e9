"""Batches are made in order, a few ahead, by threads that take no cores from the network."""

from __future__ import annotations

import threading

import pytest
import torch

from geosod.training.ahead import made_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_each_step_in_order(threads: int) -> None:
    assert list(made_ahead(lambda step: step, 4, 20, threads=threads)) == list(range(4, 20))


def test_an_error_is_raised_where_it_belongs() -> None:
    made = made_ahead(lambda step: 1 // (2 - step), 0, 5, threads=2)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_at_most_two_for_each_thread_are_ahead() -> None:
    asked: list[int] = []
    made = made_ahead(lambda step: asked.append(step) or step, 0, 50, threads=2)
    for step in made:
        assert len(asked) <= step + 1 + 2 * 2


def test_torch_uses_one_thread_for_each_of_them() -> None:
    """And the caller's own number afterwards, and meanwhile."""
    before = torch.get_num_threads()
    names: set[str] = set()
    torch.set_num_threads(2)
    try:
        for threads in made_ahead(lambda _: (names.add(threading.current_thread().name), torch.get_num_threads())[1],
                                  0, 8, threads=2):  # fmt: skip
            assert threads == 1
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threading.current_thread().name not in names
