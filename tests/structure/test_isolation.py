"""The promises of conftest.py: tests stay on this machine, and leave the user's caches alone."""

import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80)], ids=["IPv4", "IPv6"])
def test_other_machines_are_out_of_reach(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as sock, pytest.raises(pytest.fail.Exception, match="may not use the network"):
        sock.connect(address)


def test_names_of_other_machines_are_not_looked_up() -> None:
    with pytest.raises(pytest.fail.Exception, match="may not use the network"):
        socket.create_connection(("machine.invalid", 80), timeout=1)


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


def test_caches_lie_in_a_folder_of_this_session() -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert cache.is_dir()
    assert Path.home() not in cache.parents


@pytest.mark.parametrize("_again", range(2))
def test_random_numbers_start_anew_in_each_test(_again: int) -> None:
    drawn = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
    assert torch.get_num_threads() == 1
