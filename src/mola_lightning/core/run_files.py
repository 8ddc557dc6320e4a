"""Names of what a run writes into its folder."""

CONFIG = "config.yaml"
SUMMARY = "summary.json"
JOURNAL, METRICS = "metrics.jsonl", "metrics.csv"
DATA = "data.json"
CHECKPOINTS = "checkpoints"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
FIGURES, ANALYSIS = "figures", "analysis"
ERROR = "error.txt"
PRUNED = "pruned.json"  # of a run that a search has ended early
LOCK = ".lock"
