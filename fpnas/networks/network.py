"""The stand-alone network of one architecture.

Only torch is needed to build it and to load its weights.
Tensor shapes: B pictures, C channels, H height, W width, R splits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpnas.architecture import Architecture, BlockSpec
from fpnas.cost import attention_channels
from fpnas.networks.depthwise import DepthwiseConv2d

ACTIVATION_LAYERS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "swish": nn.SiLU}


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalization, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            DepthwiseConv2d(outputs, kernel, stride)
            if depthwise
            else nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            ACTIVATION_LAYERS[activation](inplace=True) if activation else nn.Identity(),
        )


class SplitAttention(nn.Module):
    """Weights R parallel feature maps by a softmax over them; R = 1 is squeeze-and-excitation.

    Source: the paper's figure of its MBConv block. The hidden width, a quarter of the features,
    is FBNetV2's.
    """

    def __init__(self, features: int, splits: int) -> None:
        super().__init__()
        self.splits = splits
        hidden = int(attention_channels(features))
        self.reduce = nn.Linear(features, hidden)
        self.expand = nn.Linear(hidden, splits * features)

    def forward(self, branches: list[Tensor]) -> Tensor:
        """Merges R feature maps of shape (B, C, H, W) into one."""
        hidden = F.relu(self.reduce(pooled_sum(branches)))
        scores = self.expand(hidden).unflatten(1, (self.splits, -1))
        return merge_branches(branches, scores)


def pooled_sum(branches: list[Tensor]) -> Tensor:
    """Averages the sum of R feature maps (B, C, H, W) over the positions: (B, C)."""
    # The sum of the means: no further feature map is made.
    means = [spatial_mean(branch) for branch in branches]
    return means[0] if len(means) == 1 else torch.stack(means).sum(dim=0)


def spatial_mean(features: Tensor) -> Tensor:
    """Averages feature maps (B, C, H, W) over the positions: (B, C)."""
    if torch.compiler.is_compiling():
        return features.mean(dim=(2, 3))
    # The same to the bit, but the gradient of mean() is divided position by position.
    return features.sum(dim=(2, 3)) / (features.shape[2] * features.shape[3])


def merge_branches(branches: list[Tensor], scores: Tensor) -> Tensor:
    """Adds the branches (B, C, H, W), each weighted by its scores (B, R, C)."""
    gates = (scores.sigmoid() if len(branches) == 1 else scores.softmax(dim=1))[..., None, None]
    total = branches[0] * gates[:, 0]
    for index, branch in enumerate(branches[1:], start=1):
        total = total.addcmul_(branch, gates[:, index])
    return total


class MBConv(nn.Module):
    """Inverted residual block with optional Split-Attention.

    1x1 convolution, R parallel depthwise convolutions on the full expanded tensor, attention over
    them, 1x1 convolution, and a residual where the shapes allow it.
    """

    def __init__(self, spec: BlockSpec, drop_probability: float = 0.0) -> None:
        super().__init__()
        self.has_residual = spec.has_residual
        mid, act = spec.mid_channels, spec.activation
        self.expand = (
            ConvNorm(spec.in_channels, mid, 1, activation=act) if spec.expand else nn.Identity()
        )
        self.depthwise = nn.ModuleList(
            ConvNorm(mid, mid, spec.kernel, stride=spec.stride, depthwise=True, activation=act)
            for _ in range(max(spec.splits, 1))
        )
        self.attention = SplitAttention(mid, spec.splits) if spec.splits else None
        self.project = ConvNorm(mid, spec.out_channels, 1)
        self.stochastic_depth = _stochastic_depth(drop_probability if spec.has_residual else 0.0)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        expanded = self.expand(images)
        branches = [depthwise(expanded) for depthwise in self.depthwise]
        merged = branches[0] if self.attention is None else self.attention(branches)
        projected: Tensor = self.project(merged)
        # In place: nothing needs the output of the normalization again.
        return self.stochastic_depth(projected).add_(images) if self.has_residual else projected


def _stochastic_depth(probability: float) -> nn.Module:
    """Drops a picture's whole residual branch in training."""
    if not probability:
        return nn.Identity()
    from torchvision.ops import StochasticDepth

    layer: nn.Module = StochasticDepth(probability, "row")
    return layer


def build_block(spec: BlockSpec, drop_probability: float = 0.0) -> nn.Module:
    """Returns the layer of a block; a bypassed block is an identity or a 1x1 convolution."""
    if spec.is_identity:
        return nn.Identity()
    if spec.kernel == 0:
        return ConvNorm(
            spec.in_channels, spec.out_channels, 1, stride=spec.stride, activation="relu"
        )
    return MBConv(spec, drop_probability)


class Network(nn.Module):
    """The image classifier of an architecture.

    Args:
        architecture: What to build.
        num_classes: Width of the classifier.
        dropout: Probability of dropping a feature before the classifier.
        stochastic_depth: Probability of dropping the last block's residual branch; linear in
            depth from zero at the stem (Huang et al., ECCV 2016). Needs torchvision.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(
            3, architecture.stem_channels, 3, stride=architecture.stem_stride, activation="swish"
        )
        specs = list(architecture.blocks())
        self.blocks = nn.Sequential(
            *(
                build_block(spec, stochastic_depth * place / len(specs))
                for place, spec in enumerate(specs, start=1)
            )
        )
        last = architecture.groups[-1].channels
        self.head = ConvNorm(last, architecture.head_channels, 1, activation="swish")
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(architecture.head_channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalized pictures (B, 3, H, W) to logits (B, classes)."""
        features = spatial_mean(self.head(self.blocks(self.stem(images))))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class Classifier(nn.Module):
    """A network together with the normalization of its inputs: what is deployed.

    Args:
        network: Maps normalized pictures to logits.
        mean: Of the training pictures, RGB, 1 being white.
        std: Standard deviation of the same.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Maps pictures with values from 0 to 1, (B, 3, H, W), to logits (B, classes)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def initialize(module: nn.Module) -> None:
    """Initializes convolutions for their fan-out and the last linear layer near zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel() // layer.groups
            nn.init.normal_(layer.weight, std=(2.0 / fan_out) ** 0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.weight.shape[1] ** -0.5)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: list[Tensor]) -> None:
    """Replaces running statistics by the cumulative average over fixed batches.

    Args:
        network: Left in the mode it was in.
        batches: Normalized pictures, each (B, 3, H, W).
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    training = network.training
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    for images in batches:
        network(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    network.train(training)
