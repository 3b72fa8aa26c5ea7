"""Options of batch normalization, and how they are left behind with the training run."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from fpnas.training.recipe import Recipe

DEFAULT_EPS = 1e-5
"""PyTorch's own, which everybody assumes who builds a network and loads its weights."""


def set_batch_norm(network: nn.Module, recipe: Recipe) -> None:
    """Gives every batch normalization the recipe's momentum and epsilon."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.momentum = recipe.batch_norm_momentum
            layer.eps = recipe.batch_norm_eps


def portable_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights for a network whose batch normalization has the default epsilon.

    What differs is moved into the variance: ``(var + eps - default) + default = var + eps``.

    Returns:
        On the CPU, contiguous.
    """
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    for name, layer in network.named_modules():
        if isinstance(layer, BatchNorm) and layer.eps != DEFAULT_EPS:
            variance = f"{name}.running_var"
            state[variance] = state[variance] + (layer.eps - DEFAULT_EPS)
    return state
