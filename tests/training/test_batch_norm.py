"""Batch normalization over the pictures of several processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fpnas.errors import InputError
from fpnas.parallel import Ranks
from fpnas.stages import training_config
from fpnas.stages.training_config import TrainingConfig
from fpnas.training.batch_norm import portable_state, set_batch_norm, synchronized
from fpnas.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_norm_momentum=0.2, batch_norm_eps=1e-3, sync_batch_norm=True)


def network():
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    set_batch_norm(made, RECIPE)
    return made


def test_every_norm_is_converted_with_its_options_and_its_state():
    plain = network()
    plain[1].running_var.fill_(2.0)
    found = synchronized(plain, Ranks(0, 2, "cuda:0"))
    (norm,) = [m for m in found.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert isinstance(norm, nn.SyncBatchNorm)
    assert (norm.momentum, norm.eps) == (0.2, 1e-3)
    assert portable_state(found).keys() == portable_state(network()).keys()
    torch.testing.assert_close(portable_state(found)["1.running_var"], torch.full((4,), 2.00099))
    # In evaluation it is an ordinary one, so that the first process can score alone.
    images = torch.randn(2, 3, 8, 8)
    other = network()
    other.load_state_dict(found.state_dict())
    torch.testing.assert_close(found.eval()(images), other.eval()(images))


def test_one_process_keeps_its_norms():
    plain = network()
    assert synchronized(plain, Ranks()) is plain


def test_processes_on_cpus_are_refused_before_any_work():
    with pytest.raises(InputError, match="needs a GPU for each of the 2 processes"):
        synchronized(network(), Ranks(0, 2, "cpu"))
    runtime = {"device": "cpu", "num_processes": 2}
    with pytest.raises(InputError, match="sync_batch_norm"):
        training_config.check(TrainingConfig(recipe=RECIPE, runtime=runtime))
    training_config.check(TrainingConfig(recipe=RECIPE, runtime={"device": "cpu"}))
