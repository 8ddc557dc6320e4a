"""Two processes that train together, forked from the test's own, which has imported everything."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only


def _as_rank(rank: int, port: int, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rank_zero_only.rank = rank  # as Lightning sets it on import
    run(rank, *arguments)


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., None]:
    """``two_processes(run, *arguments)``: ``run(rank, *arguments)`` on both; an exception of one is raised here."""

    def start(run: Callable[..., None], *arguments: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(_as_rank, (port, run, arguments), nprocs=2, start_method="fork")

    return start
