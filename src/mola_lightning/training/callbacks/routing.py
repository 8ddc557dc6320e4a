"""Who uses which expert while a training goes on."""

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mola_lightning.analysis import plots
from mola_lightning.analysis.collect import RoutingCollector, routed_queries
from mola_lightning.analysis.routing import FloatArray, conditional, idle, joint_statistics
from mola_lightning.core import Batch, DataError, ModelOutput
from mola_lightning.training.figure_loggers import log_figure

log = logging.getLogger(__name__)

LOGGED = ("normalised_mutual_information", "entropy_bits", "effective_experts")


class RoutingMonitor(Callback):
    """After each validation: the statistics of its routing, and the mean mixing weights of each task.

    Logged: ``routing/normalised_mutual_information``, ``routing/entropy_bits``, ``routing/effective_experts``,
    ``routing/dead_experts`` (how many) and ``routing/<task>/expert_<e>``. The figure ``routing_over_training`` of a run
    is drawn from them; loggers that take figures get the matrix of each validation.

    Costs no pass through the model: it reads what the validation computed. Logs nothing for methods that do not route.

    Args:
        log_figures: whether loggers that take figures (TensorBoard, Weights & Biases) get them.
    """

    def __init__(self, log_figures: bool = True) -> None:
        self.log_figures = log_figures
        self._trouble = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._collector = RoutingCollector(len(pl_module.names), max_rows=0)
        self._trouble = False

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect from one batch; ``outputs`` is what the validation step returned."""
        if self._trouble or not isinstance(outputs, ModelOutput):
            return
        try:
            queries = routed_queries(outputs, pl_module.architecture.num_experts)
            if queries is not None:
                self._collector.add(*queries)
        except DataError as error:  # a diverged router: whoever stops the training says so
            self._trouble = True
            log.warning("routing statistics of this validation are left out: %s", error)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the statistics."""
        if trainer.sanity_checking or (usage := self._total(trainer, pl_module)) is None:
            return
        found, mean = joint_statistics(usage / usage.sum()), conditional(usage)
        values: dict[str, Any] = {f"routing/{name}": found[name] for name in LOGGED}
        values["routing/dead_experts"] = len(idle(usage.sum(axis=0) / usage.sum()))
        values |= {
            f"routing/{name}/expert_{e}": float(mean[t, e])
            for t, name in enumerate(pl_module.names)
            for e in range(mean.shape[1])
            if np.isfinite(mean[t, e])
        }
        # Of all processes already; said so that Lightning does not warn.
        pl_module.log_dict({name: float(value) for name, value in values.items()}, sync_dist=True)
        if self.log_figures and trainer.is_global_zero:
            log_figure(
                trainer.loggers,
                "routing/mixing",
                lambda: plots.mixing_heatmap(mean, pl_module.names),
                trainer.global_step,
            )

    def _total(self, trainer: Trainer, module: LightningModule) -> FloatArray | None:
        """(T, E) summed mixing weights of all processes; None when nothing was routed, or any process had trouble."""
        experts = module.architecture.num_experts
        if not experts:
            return None
        usage = self._collector.usage
        local = torch.zeros(len(module.names), experts) if usage is None else torch.from_numpy(usage).float()
        local = local * torch.nan if self._trouble else local
        if trainer.world_size > 1:
            local = trainer.strategy.reduce(local.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        total = local.double().numpy()
        return total if np.isfinite(total).all() and total.sum() > 0 else None
