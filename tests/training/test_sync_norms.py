"""Norms that see all processes: converted and put back. They run on GPUs only; here what can be seen without."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

from mola_lightning.architectures import HPS, MMoE
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import ConfigError, Regime, Task
from mola_lightning.training import MoLAGrad, MultiTaskModule
from mola_lightning.training.sync_norms import SyncNorms

TASKS = (Task("a", 3), Task("b", 2))


def test_timm_norms_keep_their_activation_and_come_back_with_what_they_learned() -> None:
    """Lightning's own conversion loses the activation that timm's norms hold."""
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    images, names = torch.randn(2, 3, 64, 64), list(net.state_dict())
    before, plugin = net(images), SyncNorms()
    synced = plugin.apply(net)
    norms = [m for m in synced.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms
    assert torch.equal(synced(images), before)
    with torch.no_grad():
        norms[0].weight.mul_(2)
        norms[0].running_mean = norms[0].running_mean + 1  # as moving to a device does: another tensor
    changed = synced(images)
    assert not torch.equal(changed, before)
    restored = plugin.revert(synced)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in restored.modules())
    assert list(restored.state_dict()) == names
    assert torch.equal(restored(images), changed)


def test_schemes_of_which_a_part_may_rest_are_refused() -> None:
    backbone = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
    SyncNorms().apply(MultiTaskModule(TASKS, HPS(TASKS, backbone, (3, 8, 8))))
    with pytest.raises(ConfigError, match="runs every row through every norm"):
        SyncNorms().apply(MultiTaskModule(TASKS, MMoE(TASKS, backbone, image_shape=(3, 8, 8))))


def test_a_pass_for_each_task_is_refused_where_a_process_may_lack_one() -> None:
    backbone = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
    module = MoLAGrad(TASKS, backbone, (3, 8, 8))
    assert module.architecture.runs_whole(Regime.DOMAINS)
    assert not module.architecture.runs_whole(Regime.SINGLE_INPUT)
    with pytest.raises(ConfigError, match="runs every row through every norm"):
        SyncNorms().apply(module)  # of data that nobody knows
    SyncNorms().apply(MoLAGrad(TASKS, backbone, (3, 8, 8), single_input="tile"))
