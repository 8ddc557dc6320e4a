"""Commands called from a notebook."""

import sys

import pytest
from hydra import initialize_config_module

from mola_lightning.cli.call import CommandFailed, call
from mola_lightning.core import ConfigError


def test_a_command_runs_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    call("mola-report --help")
    assert "--baseline METHOD" in capsys.readouterr().out
    assert sys.argv == before


def test_a_config_that_was_composed_before_is_in_no_way(capsys: pytest.CaptureFixture[str]) -> None:
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        call("mola-train --cfg job adapter.rank=3")
    assert "rank: 3" in capsys.readouterr().out


def test_a_failure_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    with pytest.raises(CommandFailed, match="exit code 1"):
        call("mola-report 'no where'")
    assert "no where does not exist" in capsys.readouterr().err
    assert sys.argv == before


@pytest.mark.parametrize("line", ["", "mola-trian seed=1", "ls"])
def test_what_is_no_command(line: str) -> None:
    with pytest.raises(ConfigError, match="mola-train"):
        call(line)
