"""The weight-sharing supernet: every architecture of a space is a slice of one set of weights.

An architecture computes only what it needs: leading channels of the widest weights, the centre of
the widest kernel, the first of the split branches. Nothing is masked. What is shared (widths,
kernels, splits, activations) is our choice; the paper does not say.

Batch normalization uses the statistics of the batch, since the statistics of one architecture say
nothing about another.

Tensor shapes: A sampled architectures, B pictures, C channels, K kernel size, R splits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpnas.architecture import Architecture, BlockSpec, architecture_at, expanded_channels
from fpnas.cost import attention_channels
from fpnas.networks.depthwise import depthwise_conv2d
from fpnas.networks.network import (
    ACTIVATION_LAYERS,
    ConvNorm,
    MBConv,
    Network,
    initialize,
    merge_branches,
    pooled_sum,
)
from fpnas.space import CHANNELS, EXPANSION, KERNEL, SPLITS, SearchSpace

ACTIVATION_FUNCTIONS = {"relu": F.relu, "swish": F.silu}
assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATION_LAYERS)


class SharedConvNorm(nn.Module):
    """Convolution and batch normalization whose leading channels can be taken."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, branches: int = 0) -> None:
        super().__init__()
        # Branches make it depthwise: (R, C, 1, K, K) instead of (C_out, C_in, K, K).
        self.depthwise = branches > 0
        lead = (branches, outputs, 1) if self.depthwise else (outputs, inputs)
        fan_out = kernel**2 * (1 if self.depthwise else outputs)
        self.weight = nn.Parameter(torch.randn(*lead, kernel, kernel) * (2.0 / fan_out) ** 0.5)
        norm_shape = (max(branches, 1), outputs)
        self.scale = nn.Parameter(torch.ones(norm_shape))
        self.shift = nn.Parameter(torch.zeros(norm_shape))

    def forward(
        self,
        images: Tensor,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        branch: int = 0,
        activation: str | None = None,
    ) -> Tensor:
        """Applies the slice: (B, C_in, H, W) to (B, outputs, H / stride, W / stride)."""
        weight = self.sliced_weight(images.shape[1], outputs, kernel, branch)
        features = (
            depthwise_conv2d(images, weight, stride)
            if self.depthwise
            else F.conv2d(images, weight, None, stride, kernel // 2)
        )
        features = F.batch_norm(
            features,
            None,
            None,
            self.scale[branch, :outputs],
            self.shift[branch, :outputs],
            training=True,
        )
        # Of the two, swish alone needs its input to be differentiated.
        in_place = activation == "relu" or not torch.is_grad_enabled()
        return (
            ACTIVATION_FUNCTIONS[activation](features, inplace=in_place) if activation else features
        )

    def sliced_weight(self, inputs: int, outputs: int, kernel: int, branch: int) -> Tensor:
        """The weights of a slice, as a view."""
        margin = (self.weight.shape[-1] - kernel) // 2
        window = slice(margin, margin + kernel)
        if self.depthwise:
            return self.weight[branch, :outputs, :, window, window]
        return self.weight[:outputs, :inputs, window, window]

    def copy_into(self, target: ConvNorm, branch: int = 0) -> None:
        """Copies the slice that a stand-alone layer needs."""
        conv, norm = target[0], target[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        kernel, outputs = conv.kernel_size[0], conv.out_channels
        conv.weight.copy_(self.sliced_weight(conv.in_channels, outputs, kernel, branch))
        norm.weight.copy_(self.scale[branch, :outputs])
        norm.bias.copy_(self.shift[branch, :outputs])


class SharedBlock(nn.Module):
    """All MBConv and bypass layers that a block of a space may be.

    Args:
        in_channels: Widest input.
        mid: Widest expanded width.
        out_channels: Widest output.
        kernel: Largest kernel; 0 when the block can only be bypassed.
        splits: Largest number of splits.
    """

    def __init__(
        self,
        in_channels: int,
        mid: int,
        out_channels: int,
        kernel: int,
        splits: int,
        bypass: bool,
    ) -> None:
        super().__init__()
        if kernel:
            hidden = int(attention_channels(mid))
            self.expand = SharedConvNorm(in_channels, mid)
            self.depthwise = SharedConvNorm(mid, mid, kernel, branches=max(splits, 1))
            self.project = SharedConvNorm(mid, out_channels)
            if splits:
                self.reduce = nn.Linear(mid, hidden)
                self.excite_weight = nn.Parameter(torch.randn(splits, mid, hidden) * hidden**-0.5)
                self.excite_bias = nn.Parameter(torch.zeros(splits, mid))
                nn.init.normal_(self.reduce.weight, std=mid**-0.5)
                nn.init.zeros_(self.reduce.bias)
        if bypass:
            self.bypass = SharedConvNorm(in_channels, out_channels)

    def forward(self, images: Tensor, spec: BlockSpec) -> Tensor:
        """Runs the block as ``spec`` asks: (B, C_in, H, W) to (B, C_out, H', W')."""
        if spec.is_identity:
            return images
        if spec.kernel == 0:
            return self.bypass(  # type: ignore[no-any-return]
                images, spec.out_channels, stride=spec.stride, activation="relu"
            )
        mid, act = spec.mid_channels, spec.activation
        expanded = self.expand(images, mid, activation=act) if spec.expand else images
        branches = [
            self.depthwise(
                expanded,
                mid,
                kernel=spec.kernel,
                stride=spec.stride,
                branch=branch,
                activation=act,
            )
            for branch in range(max(spec.splits, 1))
        ]
        merged = self._attend(branches, mid) if spec.splits else branches[0]
        projected: Tensor = self.project(merged, spec.out_channels)
        # In place: nothing needs the output of the normalization again.
        return projected.add_(images) if spec.has_residual else projected

    def _attend(self, branches: list[Tensor], mid: int) -> Tensor:
        splits, hidden = len(branches), int(attention_channels(mid))
        weight, bias = self.reduce.weight[:hidden, :mid], self.reduce.bias[:hidden]
        hidden_features = F.relu(F.linear(pooled_sum(branches), weight, bias))
        weight = self.excite_weight[:splits, :mid, :hidden].reshape(splits * mid, hidden)
        bias = self.excite_bias[:splits, :mid].reshape(-1)
        scores = F.linear(hidden_features, weight, bias).unflatten(1, (splits, mid))
        return merge_branches(branches, scores)

    def copy_into(self, target: nn.Module, spec: BlockSpec) -> None:
        """Copies the slice that a stand-alone block needs."""
        if isinstance(target, ConvNorm):
            self.bypass.copy_into(target)
        if not isinstance(target, MBConv):
            return
        if isinstance(target.expand, ConvNorm):
            self.expand.copy_into(target.expand)
        for branch, layer in enumerate(target.depthwise):
            assert isinstance(layer, ConvNorm)
            self.depthwise.copy_into(layer, branch)
        self.project.copy_into(target.project)
        if target.attention is not None:
            mid, splits = spec.mid_channels, spec.splits
            hidden = int(attention_channels(mid))
            target.attention.reduce.weight.copy_(self.reduce.weight[:hidden, :mid])
            target.attention.reduce.bias.copy_(self.reduce.bias[:hidden])
            weight = self.excite_weight[:splits, :mid, :hidden].reshape(splits * mid, hidden)
            target.attention.expand.weight.copy_(weight)
            target.attention.expand.bias.copy_(self.excite_bias[:splits, :mid].reshape(-1))


class AbstractSupernet(nn.Module):
    """What all architectures of a space begin and end with."""

    space: SearchSpace
    stem: SharedConvNorm
    head: SharedConvNorm
    classifier: nn.Linear

    def stem_features(self, images: Tensor) -> Tensor:
        """What all architectures begin with: (B, 3, H, W) to (B, C, H', W')."""
        space = self.space
        features: Tensor = self.stem(
            images, space.stem_channels, kernel=3, stride=space.stem_stride, activation="swish"
        )
        return features

    def logits(self, features: Tensor) -> Tensor:
        """What all architectures end with: (B, C, H, W) to (B, classes)."""
        features = self.head(features, self.space.head_channels, activation="swish")
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class Supernet(AbstractSupernet):
    """Shared weights of all architectures of a space.

    Initialization draws from torch's global generator: seed it before construction.
    """

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        super().__init__()
        self.space = space
        self.stem = SharedConvNorm(3, space.stem_channels, 3)
        self.blocks = nn.ModuleList()
        widths: tuple[int, ...] = (space.stem_channels,)
        for group in space.groups:
            values = [choice.values for choice in group.choices]
            for index in range(group.repeat):
                self.blocks.append(
                    SharedBlock(
                        max(widths),
                        max(
                            int(expanded_channels(w, e)) for w in widths for e in values[EXPANSION]
                        ),
                        max(values[CHANNELS]),
                        max(values[KERNEL]),
                        max(values[SPLITS]),
                        # Only a first block changes stride or width.
                        bypass=0 in values[KERNEL] and index == 0,
                    )
                )
                widths = values[CHANNELS]
        self.head = SharedConvNorm(max(widths), space.head_channels)
        self.classifier = nn.Linear(space.head_channels, num_classes)
        initialize(self.classifier)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Maps normalized pictures (B, 3, H, W) to logits (B, classes) of one architecture."""
        features = self.stem_features(images)
        for block, spec in zip(self.blocks, architecture.blocks(), strict=True):
            features = block(features, spec)
        return self.logits(features)

    def architecture(self, choices: Tensor) -> Architecture:
        """The architecture at indices (G, M)."""
        return architecture_at(self.space, choices.tolist())

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> Network:
        """Returns a stand-alone network with a copy of the shared weights.

        Its running statistics are not set: recalibrate them before evaluation.
        """
        network = Network(architecture, self.classifier.out_features)
        self.stem.copy_into(network.stem)
        specs = architecture.blocks()
        for shared, target, spec in zip(self.blocks, network.blocks, specs, strict=True):
            assert isinstance(shared, SharedBlock)
            shared.copy_into(target, spec)
        self.head.copy_into(network.head)
        network.classifier.load_state_dict(self.classifier.state_dict())
        return network
