"""What is exported: a trained model, how its images are prepared, and what is known of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mola_lightning.core import ConfigError, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data import ImageTransforms, MultiTaskDataModule, Normalize
from mola_lightning.data.kinds import kind_of
from mola_lightning.training import MultiTaskModule

CHECKED_ROWS = (1, 3)  # a graph traced for one number of images must serve others
OUTPUTS = {
    "single_label": "logits, one a class: softmax makes probabilities",
    "multi_label": "logits, one a label: sigmoid makes probabilities",
    "regression": "predictions, as they are",
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Attributes:
        mean: per channel, or one for all, on the scale of [0, 1].
        std: likewise; the network sees ``(image - mean) / std`` of an image in [0, 1].
        steps: what happens before, from a file to an image of the right size, in words.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    steps: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, found: Mapping[str, Sequence[Any]]) -> "Preprocessing":
        """From the values that :meth:`plain` gave."""
        return cls(tuple(found["mean"]), tuple(found["std"]), tuple(found["steps"]))


class Normalized(nn.Module):
    """``(images - mean) / std`` inside a graph.

    Args:
        preprocessing: of the images.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> the same shape."""
        return (images - self.mean) / self.std


@dataclass
class Deployable:
    """A trained model and what an artefact says of it.

    Attributes:
        module: the model; it is put in evaluation mode, in float32 on the CPU, and told of the preprocessing.
        image_shape: (C, H, W) of its images.
        preprocessing: task name -> how its images are prepared.
        facts: what else manifests say: ``license``, ``run``, ``git``, ``metrics`` (task name -> metrics) ...
    """

    module: MultiTaskModule
    image_shape: tuple[int, int, int]
    preprocessing: Mapping[str, Preprocessing]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = self.module.eval().cpu().float()
        missing = [name for name in self.module.names if name not in self.preprocessing]
        if missing:
            raise ConfigError(f"preprocessing lacks the tasks {', '.join(missing)}: give one for each task")
        self.module.normalizers = {name: Normalize(p.mean, p.std) for name, p in self.preprocessing.items()}

    @classmethod
    def of_data(cls, module: MultiTaskModule, data: MultiTaskDataModule, facts: dict[str, Any]) -> "Deployable":
        """A model with the preprocessing of the data that it was trained on."""
        transforms = getattr(data.source, "transforms", None)
        found = {}
        for name, normalize in data.normalizers().items():
            of_task = transforms.get(name) if isinstance(transforms, Mapping) else transforms
            steps = of_task.eval_steps if isinstance(of_task, ImageTransforms) else ()
            mean, std = (tuple(values.flatten().tolist()) for values in (normalize.mean, normalize.std))
            found[name] = Preprocessing(mean, std, steps)
        return cls(module, data.image_shape, found, facts)

    def tasks(self, name: str | None = None) -> list[Task]:
        """All tasks, or the one with that name.

        Raises:
            ConfigError: when there is none.
        """
        if name is None:
            return list(self.module.tasks)
        one_of("task", name, self.module.names)
        return [task for task in self.module.tasks if task.name == name]

    def example(self, rows: int) -> Tensor:
        """(rows, C, H, W) of noise in [0, 1], always the same."""
        return torch.rand(rows, *self.image_shape, generator=torch.Generator().manual_seed(0))

    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs of all tasks, by name, for images (B, C, H, W) as :meth:`MultiTaskModule.predict` takes them."""
        return {name: self.module.predict(images, name) for name in self.module.names}

    def check_answers(
        self,
        answers: Callable[[Tensor], Mapping[str, Tensor]],
        names: Sequence[str],
        path: Path,
        tolerance: float = 1e-5,
    ) -> float:
        """The largest difference between a file and the model, over the largest output where that is above 1.

        Args:
            answers: images (B, C, H, W) in [0, 1] -> outputs by name of the task, by the file.
            names: the tasks to compare.
            path: of the file, said in the message.
            tolerance: the largest difference that is allowed.

        Raises:
            ConfigError: when it is above the tolerance.
        """
        largest = 0.0
        for rows in CHECKED_ROWS:
            images = self.example(rows)
            found = answers(images)
            for name in names:
                wanted = self.module.predict(images, name)
                scale = max(1.0, float(wanted.abs().max()))
                difference = float((found[name] - wanted).abs().max()) / scale
                largest = largest if difference <= largest else difference  # which keeps what is not a number
        require(
            largest <= tolerance,
            f"{path} answers otherwise than the model: by {largest:.1e}, and {tolerance:.0e} is allowed. Use another "
            "format, and please report this",
        )
        return largest

    def task_facts(self, task: Task) -> dict[str, Any]:
        """What a manifest says of a task."""
        return {
            "num_outputs": task.num_outputs,
            "classes": list(task.class_names),
            "kind": kind_of(task),
            "outputs": OUTPUTS[kind_of(task)],
            "expert": self.expert_of(task.name),
            "preprocessing": self.preprocessing[task.name].plain(),
            "metrics": self.facts.get("metrics", {}).get(task.name, {}),
        }

    def expert_of(self, task: str) -> int | None:
        """The index of the expert that serves a task; None where the images decide, or there are no experts."""
        router = getattr(self.module.architecture, "router", None)
        return self.module.names.index(task) if router is not None and router.needs_task_ids else None


def need(package: str, what: str) -> Any:
    """Import a package of the extra ``export``.

    Raises:
        ConfigError: when it is missing, saying how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the package {package.partition('.')[0]}, which is not installed ({error}): "
            "pip install 'mola-lightning[export]'"
        ) from error
