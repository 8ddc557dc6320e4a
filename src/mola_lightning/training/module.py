"""The LightningModule of every method: architecture, heads, balancer, auxiliary losses, one optimiser."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mola_lightning.architectures import Architecture
from mola_lightning.balancers import Balancer, EqualWeights
from mola_lightning.core import Batch, ConfigError, ModelOutput, Regime, Task, TaskRows, check_tasks
from mola_lightning.heads import HeadFactory, LinearHead
from mola_lightning.losses import AuxiliaryLoss
from mola_lightning.training.meters import Meters
from mola_lightning.training.parameters import group_parameters

AuxiliaryFactory = Callable[..., AuxiliaryLoss]


class MultiTaskModule(pl.LightningModule):
    """Trains any architecture on any regime: no branch on a method, a dataset or a regime.

    Step: features per task -> heads -> mean loss of each present task -> balancer -> plus auxiliary losses. One
    optimiser over all parameters, each stepped once.

    Logged per epoch: ``train/<task>/loss``, ``train/loss``, ``train/aux/<name>``; ``val/<task>/<metric>``,
    ``val/<task>/loss``, ``val/mean/<metric>``, ``val/mean/loss`` and ``val/score``, the mean over tasks of the
    monitored metric (negated where smaller is better), on which models are selected; the same with ``test/``.

    Args:
        tasks: all tasks, in task order.
        architecture: the sharing scheme.
        head: ``head(in_features, task)``; a linear layer by default.
        balancer: combines the task losses; their sum by default.
        auxiliary: name -> auxiliary loss, or its factory, called with ``num_experts`` and ``num_tasks``.
        optimizer: ``optimizer(parameters)``; AdamW with lr 1e-3 and weight decay 1e-4 by default.
        scheduler: ``scheduler(optimizer)``, stepped per epoch; none by default.
        parameter_groups: regular expression searched in parameter names -> optimiser options such as ``lr``; the first
            match wins. Names start with ``architecture.backbone``, ``architecture.router``, ``heads.<task>``; experts'
            end in ``lora_A`` and ``lora_B``.

    Raises:
        ConfigError: for settings that cannot work together.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        architecture: Architecture,
        head: HeadFactory = LinearHead,
        balancer: Balancer | None = None,
        auxiliary: Mapping[str, AuxiliaryLoss | AuxiliaryFactory] | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], Any] | None = None,
        parameter_groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)
        self.architecture = architecture
        self.heads = nn.ModuleDict({task.name: head(architecture.num_features, task) for task in self.tasks})
        self.balancer = balancer or EqualWeights()
        self.auxiliary = nn.ModuleDict({n: self._build_auxiliary(n, aux) for n, aux in (auxiliary or {}).items()})
        self._optimizer = optimizer or partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4)
        self._scheduler = scheduler
        self._parameter_groups = dict(parameter_groups or {})
        self.meters = nn.ModuleDict(
            {"train_": Meters((), ("loss", *(f"aux/{name}" for name in self.auxiliary)), tasks)}
        )
        self.meters.update({f"{stage}_": Meters(self.tasks, (), tasks) for stage in ("val", "test")})

    def _build_auxiliary(self, name: str, given: AuxiliaryLoss | AuxiliaryFactory) -> AuxiliaryLoss:
        if not self.architecture.learned_logits:
            raise ConfigError(
                f"the auxiliary loss {name!r} acts on a router's logits, and {type(self.architecture).__name__} "
                f"(method {self.architecture.method!r}) has none. Use a router that learns them (router=conv), or "
                "auxiliary=none."
            )
        if isinstance(given, nn.Module):
            return given
        return given(num_experts=self.architecture.num_experts, num_tasks=len(self.tasks))

    # ------------------------------------------------------------------------------------------------ forward and
    # losses

    def forward(self, images: Tensor, rows: TaskRows) -> ModelOutput:
        """Predictions of every task for its rows.

        Args:
            images: (B, C, H, W).
            rows: which rows to answer for which task.
        """
        features = self.architecture(images, rows)
        predictions = {name: self.heads[name](features.per_task[name]) for name in rows}
        return ModelOutput(predictions, rows, features.routing, features.routed)

    def task_losses(self, output: ModelOutput, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss of each task over its units in the global batch, such that averaging over processes is exact.

        Returns:
            losses (T,), 0 for absent tasks, and units (T,) of the global batch.
        """
        pairs = [task.criterion(output.predictions[task.name], targets[task.name]) for task in self.tasks]
        sums, units = torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs]).detach()
        world = self._trainer.world_size if self._trainer is not None else 1
        if world > 1:
            units = self.trainer.strategy.reduce(units, reduce_op="sum")
        return sums * (world / units.clamp(min=1)), units

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        output = self(batch.images, batch.rows)
        losses, units = self.task_losses(output, batch.targets)
        total = self.balancer(losses, units > 0, self.architecture.shared_parameters())
        values = {}
        for name, auxiliary in self.auxiliary.items():
            value = auxiliary(output)
            values[f"aux/{name}"] = value.detach()
            total = total + auxiliary.weight * value
        self.meters["train_"].update_losses(losses.detach(), units, {"loss": total.detach(), **values})
        return total

    # ------------------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self, stage: str, batch: Batch) -> ModelOutput:
        output = self(batch.images, batch.rows)
        losses, units = self.task_losses(output, batch.targets)
        self.meters[f"{stage}_"].update_losses(losses, units, {})
        self.meters[f"{stage}_"].update_metrics(output.predictions, batch.targets)
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        """Update the test metrics; the output is for callbacks."""
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        """The output for a batch whose targets may be missing."""
        return self(batch.images, batch.rows)

    def _report(self, stage: str) -> None:
        values = self.meters[f"{stage}_"].compute()
        self.meters[f"{stage}_"].reset()
        self.log_dict({f"{stage}/{key}": value for key, value in values.items()})

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training losses."""
        self._report("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._report("test")

    # ------------------------------------------------------------------------------------------------------------ setup

    def setup(self, stage: str) -> None:
        """Check that the architecture is defined for the regime of the data, where the data says it."""
        regime = getattr(getattr(self.trainer, "datamodule", None), "regime", None)
        if isinstance(regime, Regime):
            self.check_regime(regime)

    def check_regime(self, regime: Regime) -> None:
        """Raise :class:`ConfigError` when a part of the method is not defined for ``regime``."""
        self.architecture.check_regime(regime)
        for name, auxiliary in self.auxiliary.items():
            if regime not in auxiliary.regimes:
                raise ConfigError(
                    f"the auxiliary loss {name!r} is not defined for the {regime.value} regime of this data, where an "
                    "image has several tasks; leave it out with auxiliary=none"
                )

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimiser over all trainable parameters, and its schedule."""
        optimizer = self._optimizer(group_parameters(self, self._parameter_groups))
        if self._scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "epoch"}}
