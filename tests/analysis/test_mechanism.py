"""The table of how experts are used and where gradients disagree."""

from pathlib import Path

from mola_lightning.analysis.mechanism import mechanism_table
from mola_lightning.analysis.runs import Run


def run(method: str, **parts: object) -> Run:
    return Run(Path(method), "done", {"method": method, **parts})


def test_means_over_seeds_and_missing_parts() -> None:
    runs = [
        run("grad", routing={"normalised_mutual_information": 1.0, "effective_experts": 4.0}, conflict=None),
        run("grad", routing={"normalised_mutual_information": 0.5, "effective_experts": 3.0}, conflict=None),
        run("hps", routing=None, conflict={"mean_cosine": -0.25, "share_negative": 0.5}),
        run("single", routing=None, conflict=None),
    ]
    table = mechanism_table(runs)
    assert table is not None
    columns = [list(column.cells) for column in table.columns]
    assert columns == [["grad", "hps"], ["0.75", "–"], ["3.5", "–"], ["–", "-0.25"], ["–", "50"]]


def test_nothing_to_show() -> None:
    assert mechanism_table([run("single", routing=None, conflict=None)]) is None
