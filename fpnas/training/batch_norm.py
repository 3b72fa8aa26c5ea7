"""Options of batch normalization, and how they are left behind with the training run."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from fpnas.errors import InputError
from fpnas.parallel import Ranks
from fpnas.training.recipe import Recipe

DEFAULT_EPS = 1e-5
"""PyTorch's own, which everybody assumes who builds a network and loads its weights."""


def set_batch_norm(network: nn.Module, recipe: Recipe) -> None:
    """Gives every batch normalization the recipe's momentum and epsilon."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.momentum = recipe.batch_norm_momentum
            layer.eps = recipe.batch_norm_eps


def check_synchronized(num_processes: int, device: str) -> None:
    """Makes sure that processes can normalize by the pictures of all of them.

    Raises:
        InputError: They are on CPUs, for which PyTorch has no such layer.
    """
    if num_processes > 1 and not device.startswith("cuda"):
        raise InputError(
            "recipe.sync_batch_norm",
            True,
            f"needs a GPU for each of the {num_processes} processes",
            fix="set it to false: on CPUs each process normalizes by its own pictures",
        )


def synchronized(network: nn.Module, ranks: Ranks) -> nn.Module:
    """The network with batch normalization over the pictures of all ranks.

    The gradients of PyTorch's layer are those of the sum of all ranks' losses, as the loop has
    them. On one rank nothing changes.

    Raises:
        InputError: The ranks are on CPUs, for which PyTorch has no such layer.
    """
    if ranks.size == 1:
        return network
    check_synchronized(ranks.size, ranks.device)
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return converted


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
