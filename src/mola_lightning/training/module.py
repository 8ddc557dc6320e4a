"""The LightningModule of every method: architecture, heads, balancer, auxiliary losses, one optimiser."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mola_lightning.architectures import Architecture, Features
from mola_lightning.balancers import Balancer, EqualWeights
from mola_lightning.core import Batch, ConfigError, ModelOutput, Regime, Task, TaskRows, check_tasks
from mola_lightning.heads import HeadFactory, LinearHead, factories_per_task
from mola_lightning.losses import AuxiliaryLoss
from mola_lightning.training.auxiliary import AuxiliaryFactory, AuxiliaryLosses
from mola_lightning.training.balancer_step import balancer_step
from mola_lightning.training.finite import FiniteGuard
from mola_lightning.training.inference import Inference
from mola_lightning.training.meters import Meters
from mola_lightning.training.parameters import group_parameters
from mola_lightning.training.second_pass import second_pass
from mola_lightning.training.task_losses import task_losses

BalancerFactory = Callable[..., Balancer]


class MultiTaskModule(Inference, pl.LightningModule):
    """Trains any architecture on any regime: no branch on a method, a dataset or a regime.

    Step: features per task -> heads -> mean loss of each present task -> balancer -> plus auxiliary losses. One
    optimiser over all parameters, each stepped once.

    Logged per epoch: ``train/<task>/loss``, ``train/loss``, ``train/aux/<name>``; ``val/<task>/<metric>``,
    ``val/<task>/loss``, ``val/mean/<metric>``, ``val/mean/loss`` and ``val/score``, on which models are selected (see
    :meth:`Meters.compute`); the same with ``test/``.

    Args:
        tasks: all tasks, in task order.
        architecture: the sharing scheme.
        head: ``head(in_features, task)``, or one such factory for each task by its name; a linear layer by default.
        balancer: combines the task losses, or its factory, called with ``num_tasks``; their sum by default.
        auxiliary: name -> auxiliary loss, or its factory, called with ``num_experts`` and ``num_tasks``.
        optimizer: ``optimizer(parameters)``; AdamW with lr 1e-3 and weight decay 1e-4 by default.
        scheduler: ``scheduler(optimizer)``, stepped per epoch; none by default.
        parameter_groups: regular expression searched in parameter names -> optimiser options such as ``lr``; the first
            match wins. Names start with ``architecture.backbone``, ``architecture.router``, ``heads.<task>``; experts'
            end in ``lora_A`` and ``lora_B``.
        on_nan: ``stop`` or ``skip_batch``, when a loss is not finite: see :class:`FiniteGuard`.

    Raises:
        ConfigError: for settings that cannot work together.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        architecture: Architecture,
        head: HeadFactory | Mapping[str, HeadFactory] = LinearHead,
        balancer: Balancer | BalancerFactory | None = None,
        auxiliary: Mapping[str, AuxiliaryLoss | AuxiliaryFactory] | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], Any] | None = None,
        parameter_groups: Mapping[str, Mapping[str, Any]] | None = None,
        on_nan: str = "stop",
    ) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)
        self.names = tuple(task.name for task in self.tasks)
        self._check_names("the architecture was built for", [task.name for task in architecture.tasks])
        self.architecture = architecture
        factories = factories_per_task(head, self.tasks)
        self.heads = nn.ModuleDict({t.name: factories[t.name](architecture.num_features, t) for t in self.tasks})
        balancer = balancer or EqualWeights
        self.balancer = balancer if isinstance(balancer, nn.Module) else balancer(num_tasks=len(self.tasks))
        self._last_batch: Batch | None = None  # for balancers that look at it again after the optimiser's step
        self.auxiliary = AuxiliaryLosses(auxiliary or {}, architecture)
        self._optimizer = optimizer or partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4)
        self._scheduler = scheduler
        self._parameter_groups = dict(parameter_groups or {})
        self._guard = FiniteGuard(on_nan)
        named = (*self.auxiliary, *architecture.penalty_names)
        self.meters = nn.ModuleDict({"train_": Meters((), ("loss", *(f"aux/{name}" for name in named)), tasks)})
        self.meters.update({f"{stage}_": Meters(self.tasks, (), tasks) for stage in ("val", "test")})

    def _check_names(self, who: str, found: Sequence[str]) -> None:
        # The order too: a task's place is its id, by which experts are picked.
        if tuple(found) != self.names:
            raise ConfigError(
                f"{who} the tasks {', '.join(found)}, and the model has {', '.join(self.names)}: they must be the "
                "same, in the same order"
            )

    # ------------------------------------------------------------------------------------------------- forward, losses

    def forward(self, images: Tensor, rows: TaskRows) -> ModelOutput:
        """Predictions of every task for its rows.

        Args:
            images: (B, C, H, W).
            rows: which rows to answer for which task.
        """
        return self._predict(images, rows)[0]

    def _predict(self, images: Tensor, rows: TaskRows) -> tuple[ModelOutput, Features]:
        if rows.names != self.names:
            self._check_names("the batch comes with", rows.names)
        features = self.architecture(images, rows)
        size, activations = tuple(images.shape[-2:]), {task.name: task.activation for task in self.tasks}
        predictions = {name: activations[name](self.heads[name](features.per_task[name], size)) for name in rows}
        return ModelOutput(predictions, rows, features.routing, features.routed, features.penalties), features

    def task_losses(self, output: ModelOutput, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss of each task over its units in the global batch, such that averaging over processes is exact.

        Returns:
            losses (T,), 0 for absent tasks, and units (T,) of the global batch.
        """
        terms, units = self._loss_terms(output, targets)
        return torch.stack(terms), units

    def _loss_terms(
        self, output: ModelOutput, targets: Mapping[str, Tensor], local: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """The T losses as scalars of their own, and units (T,); ``local``: of this process's rows alone."""
        if local or self._world_size == 1:
            return task_losses(self.tasks, output, targets)
        total = partial(self.trainer.strategy.reduce, reduce_op="sum")
        return task_losses(self.tasks, output, targets, self._world_size, total)

    @property
    def _world_size(self) -> int:
        return self._trainer.world_size if self._trainer is not None else 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The loss of one batch; None for one that is left out."""
        self._guard.begin(self)
        output, features = self._predict(batch.images, batch.rows)
        terms, units = self._loss_terms(output, batch.targets)
        losses, shared = torch.stack(terms), self.architecture.shared_parameters()
        if self._guard.refuses(losses, self.names, self.current_epoch, batch_idx):  # before the balancer remembers it
            return None
        taken = {id(parameter) for parameter in (*shared, *self.balancer.parameters())}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in taken]
        step = balancer_step(terms, own, features, batch.rows, self.architecture, self._trainer)
        total = self.balancer(losses, units > 0, shared, step=step)
        self._last_batch = batch if self.balancer.wants_losses_after_step else None
        values = {}
        for name, (value, weighted) in self.auxiliary(output).items():
            values[f"aux/{name}"] = value.detach()
            total = total + weighted
        if self._guard.refuses(total.detach()[None], ("the sum with auxiliary terms",), self.current_epoch, batch_idx):
            self._last_batch = None
            return None
        self.meters["train_"].update_losses(losses.detach(), units, {"loss": total.detach(), **values})
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step; then, for balancers that ask for it, the losses of the same batch once more."""
        super().optimizer_step(*args, **kwargs)
        batch, self._last_batch = self._last_batch, None
        if batch is None:
            return
        with (
            second_pass(batch.images.device, self.architecture, self.heads),
            self._trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext(),
        ):
            losses, units = self.task_losses(self(batch.images, batch.rows), batch.targets)
        losses = losses.float()
        if self._world_size > 1:
            losses = self.trainer.strategy.reduce(losses, reduce_op="mean")
        self.balancer.after_step(losses, units > 0)

    # ------------------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self, stage: str, batch: Batch) -> ModelOutput:
        output = self(batch.images, batch.rows)
        # Local: processes may evaluate unequal numbers of batches, and the meters add up over processes anyway.
        terms, units = self._loss_terms(output, batch.targets, local=True)
        self.meters[f"{stage}_"].update_losses(torch.stack(terms), units, {})
        self.meters[f"{stage}_"].update_metrics(output.predictions, batch.targets)
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        """Update the validation metrics; the output is for callbacks."""
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        """Update the test metrics; the output is for callbacks."""
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        """The output for a batch whose targets may be missing."""
        return self(batch.images, batch.rows)

    def _report(self, stage: str) -> None:
        values = self.meters[f"{stage}_"].compute()
        self.meters[f"{stage}_"].reset()
        # The meters have added up over processes: equal values, of which the mean is the same again.
        self.log_dict({f"{stage}/{key}": value for key, value in values.items()}, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Tell balancer and architecture which epoch it is."""
        self.balancer.start_epoch(self.current_epoch)
        self.architecture.set_progress(self.current_epoch, self.trainer.max_epochs)

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the tasks' names, and the sums of an epoch under way."""
        checkpoint["tasks"] = list(self.names)
        mean = partial(self.trainer.strategy.reduce, reduce_op="mean") if self._world_size > 1 else None
        checkpoint["train_meters"] = self.meters["train_"].state(mean)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other tasks, or of the same in another order."""
        self._check_names("the checkpoint is of", checkpoint.get("tasks", self.names))
        if self._trainer is not None and self._trainer.state.fn == "fit" and "train_meters" in checkpoint:
            self.meters["train_"].load_state(checkpoint["train_meters"])

    def setup(self, stage: str) -> None:
        """Check that architecture and balancer are defined for the regime of the data, where the data says it."""
        regime = getattr(getattr(self.trainer, "datamodule", None), "regime", None)
        if isinstance(regime, Regime):
            self.check_regime(regime)
        if self._guard.mode == "skip_batch" and self._world_size > 1:
            raise ConfigError("on_nan=skip_batch needs a single process: of several, Lightning cannot skip a batch")

    def check_regime(self, regime: Regime) -> None:
        """Raise :class:`ConfigError` when a part of the method is not defined for ``regime``."""
        self.architecture.check_regime(regime)
        self.balancer.check_regime(regime)
        self.auxiliary.check_regime(regime)

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimiser over all trainable parameters, and its schedule."""
        optimizer = self._optimizer(group_parameters(self, self._parameter_groups))
        if self._scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "epoch"}}
