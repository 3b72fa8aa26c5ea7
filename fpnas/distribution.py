"""Probability distributions over the architectures of a space.

Architectures are index tensors of shape (A, G, M): for each architecture and block group, the
chosen index of every variable. Block groups are independent (FP-NAS, section on probabilistic
search): P(A | alpha) = prod_l P(A^l | alpha^l).

Tensor shapes: A sampled architectures, G groups, M = 5 variables, C choices of a variable (padded
to the widest), J joint choices of a group (padded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fpnas.space import SearchSpace


@dataclass(frozen=True)
class ChoiceLayout:
    """The numbers of choices of every variable, and the joint numbering that follows from them.

    Attributes:
        sizes: Choices of each variable, int64 (G, M).
    """

    sizes: Tensor

    @classmethod
    def of(cls, space: SearchSpace) -> ChoiceLayout:
        """Returns the layout of a space."""
        return cls(torch.tensor([[len(c) for c in g.choices] for g in space.groups]))

    @property
    def joint_sizes(self) -> Tensor:
        """Joint choices of each group, int64 (G,)."""
        return self.sizes.prod(dim=1)

    @property
    def strides(self) -> Tensor:
        """Weight of each variable in the joint number, int64 (G, M); the last varies fastest."""
        reversed_sizes = self.sizes.flip(1)
        exclusive = torch.cumprod(reversed_sizes, dim=1) // reversed_sizes
        return exclusive.flip(1)

    def ravel(self, choices: Tensor) -> Tensor:
        """Joint numbers of architectures: (A, G, M) to (A, G)."""
        return (choices * self.strides.to(choices.device)).sum(dim=-1)

    def unravel(self, joint: Tensor) -> Tensor:
        """Variable indices of joint numbers: (A, G) to (A, G, M)."""
        strides, sizes = self.strides.to(joint.device), self.sizes.to(joint.device)
        return joint.unsqueeze(-1) // strides % sizes


class AbstractDistribution(nn.Module, ABC):
    """A distribution over architectures with independent block groups.

    Its parameters are logits, padded with entries that never have probability.
    """

    kind: ClassVar[Literal["factorized", "joint"]]
    logits: nn.Parameter

    def __init__(self, layout: ChoiceLayout) -> None:
        super().__init__()
        self.layout = layout

    @abstractmethod
    def sample(self, num_architectures: int, generator: torch.Generator) -> Tensor:
        """Draws architectures, int64 (A, G, M)."""

    @abstractmethod
    def log_prob(self, choices: Tensor) -> Tensor:
        """Log-probability in nats of each architecture: (A, G, M) to (A,)."""

    @abstractmethod
    def group_entropies(self) -> Tensor:
        """Entropy of each block group in nats, (G,)."""

    @abstractmethod
    def joint_log_probs(self) -> Tensor:
        """Log-probability of every joint choice, (G, J), minus infinity in the padding."""

    @abstractmethod
    def num_parameters(self) -> int:
        """Logits that matter: padding and variables with a single choice do not."""

    def entropy(self) -> Tensor:
        """Entropy of the distribution in nats, a scalar: the sum over block groups."""
        return self.group_entropies().sum()

    def most_probable(self) -> Tensor:
        """The most probable architecture, int64 (G, M). Ties go to the lowest index."""
        return self.layout.unravel(self.joint_log_probs().argmax(dim=1).unsqueeze(0))[0]

    def marginals(self) -> Tensor:
        """Probability of each choice of each variable, (G, M, C), zero in the padding."""
        probabilities = self.joint_probabilities()
        num_groups, num_variables = self.layout.sizes.shape
        result = torch.zeros(num_groups, num_variables, int(self.layout.sizes.max()))
        for group, table in enumerate(probabilities):
            for variable, size in enumerate(table.shape):
                other = tuple(axis for axis in range(table.ndim) if axis != variable)
                result[group, variable, :size] = torch.from_numpy(table.sum(axis=other))
        return result

    def joint_probabilities(self) -> list[NDArray[np.float64]]:
        """The probability table of each group, in the shape of its choices."""
        joint = self.joint_log_probs().detach().double().exp().cpu().numpy()
        return [
            joint[group, : np.prod(sizes)].reshape(sizes)
            for group, sizes in enumerate(self.layout.sizes.tolist())
        ]


def _masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, -torch.inf).log_softmax(dim=-1)


def _entropy(log_probs: Tensor) -> Tensor:
    # A choice without probability contributes nothing, and must not send NaN into the gradient.
    finite = log_probs.masked_fill(log_probs.isinf(), 0.0)
    return -(log_probs.exp() * finite).sum(dim=-1)


class FactorizedDistribution(AbstractDistribution):
    """One categorical for every variable of every group: the coarse search.

    ``logits`` has shape (G, M, C). Starts uniform.
    """

    kind = "factorized"

    def __init__(self, layout: ChoiceLayout) -> None:
        super().__init__(layout)
        num_groups, num_variables = layout.sizes.shape
        width = int(layout.sizes.max())
        self.logits = nn.Parameter(torch.zeros(num_groups, num_variables, width))
        self.mask: Tensor
        self.register_buffer(
            "mask", torch.arange(width) < layout.sizes.unsqueeze(-1), persistent=False
        )

    def log_probs(self) -> Tensor:
        """Log-probability of each choice of each variable, (G, M, C)."""
        return _masked_log_softmax(self.logits, self.mask)

    def sample(self, num_architectures: int, generator: torch.Generator) -> Tensor:
        """Draws architectures, int64 (A, G, M)."""
        probs = self.log_probs().detach().exp().flatten(0, 1)
        drawn = torch.multinomial(probs, num_architectures, replacement=True, generator=generator)
        return drawn.view(*self.layout.sizes.shape, num_architectures).permute(2, 0, 1).contiguous()

    def log_prob(self, choices: Tensor) -> Tensor:
        """Log-probability in nats of each architecture: (A, G, M) to (A,)."""
        log_probs = self.log_probs().expand(len(choices), -1, -1, -1)
        return log_probs.gather(-1, choices.unsqueeze(-1)).squeeze(-1).sum(dim=(1, 2))

    def group_entropies(self) -> Tensor:
        """Entropy of each block group in nats, (G,)."""
        return _entropy(self.log_probs()).sum(dim=1)

    def joint_log_probs(self) -> Tensor:
        """Log-probability of every joint choice, (G, J), minus infinity in the padding.

        log P(i_1 .. i_M) = sum_m log softmax(alpha_m)[i_m]
        """
        log_probs = self.log_probs()
        joint_sizes = self.layout.joint_sizes
        result = torch.full((len(joint_sizes), int(joint_sizes.max())), -torch.inf)
        for group, sizes in enumerate(self.layout.sizes.tolist()):
            total = log_probs.new_zeros(())
            for variable, size in enumerate(sizes):
                total = total.unsqueeze(-1) + log_probs[group, variable, :size]
            result[group, : joint_sizes[group]] = total.flatten()
        return result

    def num_parameters(self) -> int:
        """Logits that matter: padding and variables with a single choice do not."""
        return int(self.layout.sizes[self.layout.sizes > 1].sum())

    def to_joint(self) -> JointDistribution:
        """Converts without loss: every probability and the entropy stay as they are."""
        joint = JointDistribution(self.layout)
        with torch.no_grad():
            joint.logits.copy_(self.joint_log_probs().masked_fill(~joint.mask, 0.0))
        return joint


class JointDistribution(AbstractDistribution):
    """One categorical over the Cartesian product of each group's variables: the fine search.

    ``logits`` has shape (G, J). Starts uniform.
    """

    kind = "joint"

    def __init__(self, layout: ChoiceLayout) -> None:
        super().__init__(layout)
        sizes = layout.joint_sizes
        width = int(sizes.max())
        self.logits = nn.Parameter(torch.zeros(len(sizes), width))
        self.mask: Tensor
        self.register_buffer("mask", torch.arange(width) < sizes.unsqueeze(-1), persistent=False)

    def joint_log_probs(self) -> Tensor:
        """Log-probability of every joint choice, (G, J), minus infinity in the padding."""
        return _masked_log_softmax(self.logits, self.mask)

    def sample(self, num_architectures: int, generator: torch.Generator) -> Tensor:
        """Draws architectures, int64 (A, G, M)."""
        probs = self.joint_log_probs().detach().exp()
        drawn = torch.multinomial(probs, num_architectures, replacement=True, generator=generator)
        return self.layout.unravel(drawn.T.contiguous())

    def log_prob(self, choices: Tensor) -> Tensor:
        """Log-probability in nats of each architecture: (A, G, M) to (A,)."""
        joint = self.layout.ravel(choices).T
        return self.joint_log_probs().gather(1, joint).sum(dim=0)

    def group_entropies(self) -> Tensor:
        """Entropy of each block group in nats, (G,)."""
        return _entropy(self.joint_log_probs())

    def num_parameters(self) -> int:
        """Logits that matter: padding and groups with a single choice do not."""
        sizes = self.layout.joint_sizes
        return int(sizes[sizes > 1].sum())
