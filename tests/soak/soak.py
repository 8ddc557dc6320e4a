"""Hundreds of runs, each killed one to four times, compared with undisturbed ones.

python tests/soak/soak.py --trials 220 --folder /tmp/soak
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "resume"))
from killing import Killer

METHODS = {
    "mola_grad": ("architecture=mola_grad",),
    "mola_router": ("architecture=mola", "router.blocks=1", "router.widths=[4,4,8]"),
    "ltb+dwa": ("architecture=ltb", "balancer=dwa", "architecture.warmup=0"),
    "hps+famo": ("architecture=hps", "balancer=famo"),
    "hps+nash_mtl": ("architecture=hps", "balancer=nash_mtl"),
    "cross_stitch+rlw": ("architecture=cross_stitch", "balancer=rlw"),
}
VARIANTS = {
    "": (),
    "2 workers": ("data.num_workers=2",),
    "accumulate 2": ("trainer.accumulate_grad_batches=2",),
    "validate twice an epoch": ("+trainer.val_check_interval=0.5",),
    "validate every 2nd epoch": ("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"),
    "save each step": ("callbacks.last.every_n_steps=1",),
    "save at epochs only": ("callbacks.last.every_n_steps=null",),
    "temperature sampler": ("sampler=temperature",),
}
HOOKS = (
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end",
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end",
    "on_validation_epoch_end", "on_validation_end", "on_train_end", "on_test_batch_end", "on_test_end",
)  # fmt: skip
POINTS = ("half", "before_replace", "after_replace", "row")


def main() -> int:
    """Run them; the number of those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=220)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draws, killer, started = random.Random(arguments.seed), Killer(), time.monotonic()
    outcomes: Counter[str] = Counter()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    for number in range(arguments.trials):
        method, variant = draws.choice(list(METHODS)), draws.choice(list(VARIANTS))
        overrides = (*METHODS[method], *VARIANTS[variant])
        whole, folder = arguments.folder / f"{method}_{variant}".replace(" ", "_"), arguments.folder / str(number)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        if not whole.exists() and killer.run(whole, overrides):
            raise RuntimeError(f"the undisturbed run failed; see {whole}.log")
        kills = [_kill(draws) for _ in range(draws.randint(1, 4))]
        found = killer.trial(whole, folder, overrides, kills)
        outcomes["differ" if found else "equal"] += 1
        outcomes["kills planned"] += len(kills)
        sys.stdout.write(
            f"{number:4d} {method:17s} {variant:24s} {'DIFFERS' if found else 'equal'} {kills}{found or ''}\n"
        )
        sys.stdout.flush()
        if not found:
            shutil.rmtree(folder)
    killer.close()
    sys.stdout.write(f"{dict(outcomes)} in {(time.monotonic() - started) / 60:.0f} min\n")
    return outcomes["differ"]


def _kill(draws: random.Random) -> Any:
    kind = draws.random()
    if kind < 0.5:
        return ("hook", draws.choice(HOOKS), draws.randint(1, 8))
    if kind < 0.8:
        return ("io", draws.choice(POINTS), draws.randint(1, 8))
    return draws.uniform(0.2, 2.5)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
