"""Threads over blocks: the same sums with one or several, and torch's own settings as they were."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.rows import rows as layout
from torchglm.rows.threads import scratch, small_operators, spread


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def data(n: int = 4000) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=draw, dtype=torch.float64)
    return x, torch.poisson(torch.exp(0.3 * x[:, 0]), generator=draw)


def test_parts_come_back_in_order_and_whole(threads: int) -> None:
    for n in (0, 1, 2, 7, 50):
        parts = spread(list, list(range(n)))
        assert [item for part in parts for item in part] == list(range(n))


def test_a_fit_is_the_same_on_any_number_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    whole = torchglm.fit(x, y, family="poisson")
    monkeypatch.setattr(layout, "BLOCK", 1500)
    blocks = torchglm.fit(x, y, family="poisson")
    torch.testing.assert_close(blocks.coef, whole.coef, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(blocks.std_err, whole.std_err, rtol=1e-10, atol=1e-12)
    assert torch.get_num_threads() == threads


def test_an_error_in_a_block_is_raised_and_threads_are_given_back(threads: int) -> None:
    def work(items: Sequence[int]) -> int:
        raise ValueError(f"no {len(items)}")

    with pytest.raises(ValueError, match="no "), small_operators():
        spread(work, [1, 2, 3])
    assert torch.get_num_threads() == threads


def test_work_runs_without_gradients_and_on_one_core() -> None:
    def work(items: Sequence[int]) -> tuple[bool, int]:
        return torch.is_grad_enabled(), torch.get_num_threads()

    with torch.no_grad():
        assert all(not grad for grad, _ in spread(work, [1, 2, 3]))


def test_scratch_is_one_for_each_name_and_thread() -> None:
    first = scratch("test", 4, 3)
    assert first.shape == (4, 3) and scratch("test", 2, 2).data_ptr() == first.data_ptr()
    assert scratch("other", 4, 3).data_ptr() != first.data_ptr()
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(scratch("test", 4, 3).data_ptr()))
    thread.start()
    thread.join()
    assert seen[0] != first.data_ptr()


def test_fits_in_several_threads_of_ones_own_do_not_meet() -> None:
    x, y = data()
    want = torchglm.fit(x, y, family="poisson").coef
    got: list[Tensor] = []
    fits = [threading.Thread(target=lambda: got.append(torchglm.fit(x, y, family="poisson").coef)) for _ in range(4)]
    for fit in fits:
        fit.start()
    for fit in fits:
        fit.join()
    assert len(got) == 4
    for coef in got:
        torch.testing.assert_close(coef, want, rtol=1e-12, atol=0.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_fits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK", 1500)
    x, y = data()
    want = torchglm.fit(x, y, family="poisson").coef
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # OpenMP's own threads do not outlive a fork
        close = torch.allclose(torchglm.fit(x, y, family="poisson").coef, want)
        os._exit(0 if close else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
