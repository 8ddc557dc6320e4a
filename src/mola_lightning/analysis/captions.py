"""What stands below a comparison: how its numbers were made, and how far they carry."""

from collections.abc import Sequence

import pandas as pd

from mola_lightning.analysis.significance import FEWEST

FEW_PAIRS = 5  # up to here a t test is said to be weak


def caption(df: pd.DataFrame, names: Sequence[str], seeds: pd.Series, percent: bool) -> str:
    """One paragraph, a sentence for what the reader cannot guess.

    Args:
        df: a comparison of :func:`mola_lightning.analysis.comparison`.
        names: its columns that are shown.
        seeds: number of seeds of each row.
        percent: whether the scores are.
    """
    metrics, same = set(df.attrs["metrics"].values()), len(set(seeds)) == 1
    measured = f"Test {metrics.pop()}{' (%)' if percent else ''}" if len(metrics) == 1 else "Test scores"
    spread = "mean ± standard deviation over seeds" if seeds.max() > 1 else "one seed, no spread known"
    count = f"; {int(seeds.iloc[0])} seeds per row" if same and seeds.max() > 1 else ""
    sentences = [f"{measured} on {df.attrs['data']}: {spread}{count}."]
    if "rank" in names:
        among = "" if same else "; each seed ranks the methods that have it"
        sentences.append(f"rank: mean over tasks of the place among the methods shown, 1 is best{among}.")
    if "delta_m" in names:
        sentences.append("Δm: mean relative change against single_task, per seed.")
    if f"vs {df.attrs.get('baseline')}" in names:
        sentences += _paired(df, df.attrs["baseline"])
    if "multiply_adds" in names:
        sentences.append("multiply-adds: of a forward pass, per image.")
    return " ".join(sentences)


def _paired(df: pd.DataFrame, baseline: str) -> list[str]:
    """What was compared with the baseline, by how many pairs, and why a cell is missing."""
    found = df[f"vs {baseline}"].drop(index=baseline, errors="ignore")
    few, tested = found[found["n"] < FEWEST], found[found["p"].notna()]
    equal = found[(found["n"] >= FEWEST) & found["p"].isna()]
    score = {"mean": "mean over tasks", "delta_m": "Δm"}[df.attrs["headline"]]
    sentences = [f"vs {baseline}: difference in {score}, paired by seed{_pairs(found[found['n'] >= FEWEST])}."]
    if len(tested):
        sentences.append(
            "95 % CI: of that difference, by the t distribution; p: paired t test, "
            + (f"Holm-corrected for {len(tested)} tests." if len(tested) > 1 else "a single one.")
        )
        if tested["n"].min() <= FEW_PAIRS:
            seeds = "few seeds" if tested["n"].nunique() > 1 else f"{int(tested['n'].min())} seeds"
            sentences.append(f"A paired t test over {seeds} is weak: a large p does not show that methods are equal.")
    if len(few):
        listed = ", ".join(f"{method} ({int(n)})" for method, n in few["n"].items())
        sentences.append(f"Not compared, as fewer than {FEWEST} seeds have the {score} of both: {listed}.")
    if len(equal):
        sentences.append(f"Not tested, as the difference is the same for every seed: {', '.join(equal.index)}.")
    return sentences


def _pairs(found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    low, high = int(found["n"].min()), int(found["n"].max())
    return f" ({low} pairs per row)" if low == high else f" ({low} to {high} pairs per row)"
