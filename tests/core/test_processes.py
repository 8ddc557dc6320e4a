"""Rows of all processes, with a gradient whose mean over processes is that of the one value."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from mola_lightning.core.processes import gather_rows, of_first, world_size

ROWS = torch.arange(10, dtype=torch.float64).reshape(5, 2)
SHARES = (ROWS[:2], ROWS[2:])  # uneven
DRAWN = (torch.tensor([1.5, 2.5]), torch.tensor([3.5, 4.5]))


def test_a_single_process_is_left_alone() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert world_size() == 1
    assert gather_rows(rows) is rows
    assert torch.equal(of_first(rows), rows)


def _process(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = SHARES[rank].clone().requires_grad_()
    everything = gather_rows(mine)
    (everything.square().sum() * everything[0, 1]).backward()
    torch.save({"rows": everything.detach(), "gradient": mine.grad, "first": of_first(DRAWN[rank])}, folder / str(rank))
    distributed.destroy_process_group()


def test_rows_and_gradients_of_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_process, (tmp_path,), nprocs=2, start_method="fork")
    whole = ROWS.clone().requires_grad_()
    (whole.square().sum() * whole[0, 1]).backward()
    found = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    for each in found:
        assert torch.equal(each["rows"], ROWS)
        assert torch.equal(each["first"], DRAWN[0])
    assert torch.cat([each["gradient"] for each in found]).div(2) == pytest.approx(whole.grad)
