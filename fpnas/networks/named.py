"""Published networks by name, to compare searched ones with and to teach them.

Built by torchvision and timm. What the field calls its baselines is in :data:`BASELINES`; any
classification network of the two libraries can be a teacher.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpnas.canonical import digest
from fpnas.errors import InputError, closest

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 1
_OUTPUT_STRIDES = (2, 4, 8, 16, 32)
_NAME = re.compile(r"(?P<network>\w+)(@(?P<width>[0-9.]+))?(/(?P<stride>\d+))?")


@dataclass(frozen=True)
class Baseline:
    """A published network that can be trained as a baseline.

    Attributes:
        library: ``torchvision`` or ``timm``.
        function: Its name there.
        width: The library's name for the multiplier of all widths; empty when it has none.
        dropout: The library's name for the dropout before the classifier.
        stochastic_depth: Likewise; empty when the network has none.
        strides: Whether its strided convolutions follow one another, so that the first ones can
            be given a stride of 1.
        source: Where it was published.
    """

    library: str
    function: str
    source: str
    width: str = ""
    dropout: str = "dropout"
    stochastic_depth: str = ""
    strides: bool = True


def _mobilenet_v3(name: str) -> Baseline:
    return Baseline("torchvision", name, "Howard et al., ICCV 2019", width="width_mult")


def _efficientnet(name: str) -> Baseline:
    return Baseline(
        "torchvision", name, "Tan and Le, ICML 2019", stochastic_depth="stochastic_depth_prob"
    )


def _resnest(name: str) -> Baseline:
    return Baseline(
        "timm",
        name,
        "Zhang et al., 2020 (arXiv:2004.08955)",
        dropout="drop_rate",
        stochastic_depth="drop_path_rate",
        strides=False,
    )


BASELINES: Mapping[str, Baseline] = {
    "mobilenet_v2": Baseline(
        "torchvision", "mobilenet_v2", "Sandler et al., CVPR 2018", width="width_mult"
    ),
    "mobilenet_v3_small": _mobilenet_v3("mobilenet_v3_small"),
    "mobilenet_v3_large": _mobilenet_v3("mobilenet_v3_large"),
    "mnasnet": Baseline("torchvision", "MNASNet", "Tan et al., CVPR 2019", width="alpha"),
    "efficientnet_b0": _efficientnet("efficientnet_b0"),
    "efficientnet_b1": _efficientnet("efficientnet_b1"),
    "efficientnet_b2": _efficientnet("efficientnet_b2"),
    "resnest14d": _resnest("resnest14d"),
    "resnest26d": _resnest("resnest26d"),
    "resnest50d": _resnest("resnest50d"),
}
"""By the name that ``fpnas baseline`` knows them by."""


@dataclass(frozen=True)
class NamedArchitecture:
    """A published network at a width and an input size; like an ``Architecture``, without weights.

    Attributes:
        network: A key of :data:`BASELINES`.
        width: Multiplies all widths, as the library rounds them; 1 is as published.
        output_stride: Pixels of the input per pixel of the last feature map. 32 as published; a
            smaller one gives the first strided convolutions a stride of 1, as is usual for small
            pictures. Such a network costs more, and counts with what it costs.
        input_size: Pixels.
    """

    network: str
    input_size: int
    width: float = 1.0
    output_stride: int = 32

    @classmethod
    def parse(cls, name: str, input_size: int) -> NamedArchitecture:
        """Reads ``network ["@" width] ["/" output_stride]``, such as ``mobilenet_v2@0.5/8``.

        Raises:
            InputError: An unknown network, or a width or stride that it does not come with.
        """
        match = _NAME.fullmatch(name)
        known = match["network"] if match else name
        baseline = BASELINES.get(known)
        if match is None or baseline is None:
            raise InputError(
                "NAME",
                name,
                "is not a baseline",
                legal=f"{', '.join(BASELINES)} or random; @WIDTH and /STRIDE may follow",
                fix=closest(known, [*BASELINES, "random"]),
            )
        width = _width(name, match["width"], baseline)
        stride = int(match["stride"] or 32)
        if stride not in (_OUTPUT_STRIDES if baseline.strides else (32,)):
            legal = ", ".join(map(str, _OUTPUT_STRIDES)) if baseline.strides else "32"
            raise InputError(
                "NAME", name, "has no such output stride", legal=legal, fix="use another or none"
            )
        return cls(known, input_size, width, stride)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NamedArchitecture:
        """Reads what :meth:`to_json` gives.

        Raises:
            InputError: Another schema version, or fields that are missing or unknown.
        """
        fields = dict(data)
        version = fields.pop("schema_version", None)
        try:
            if version != SCHEMA_VERSION or fields["network"] not in BASELINES:
                raise KeyError(version)
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise InputError(
                "architecture",
                sorted(data),
                f"is not a named network that this version knows: {error}",
                fix="use the version of fpnas that wrote the file",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that :meth:`from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "network": self.network,
            "input_size": self.input_size,
            "width": self.width,
            "output_stride": self.output_stride,
        }

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON."""
        return digest(self.to_json())

    @property
    def name(self) -> str:
        """What :meth:`parse` reads."""
        width = f"@{self.width:g}" if self.width != 1 else ""
        return self.network + width + (f"/{self.output_stride}" if self.output_stride < 32 else "")

    def __str__(self) -> str:
        """The name, "@" and the input size."""
        return f"{self.name}@{self.input_size}px"


def _width(name: str, text: str | None, baseline: Baseline) -> float:
    try:
        width = float(text or 1)
    except ValueError:
        width = 0.0
    if not 0.1 <= width <= 4 or (width != 1 and not baseline.width):
        raise InputError(
            "NAME",
            name,
            "has no such width",
            legal="0.1 to 4" if baseline.width else "none: it comes in one width",
            fix="use another width or none",
        )
    return width


def build_named(
    architecture: NamedArchitecture,
    num_classes: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """Builds a baseline with its library's own initialization.

    Args:
        architecture: Which.
        num_classes: Width of the classifier.
        dropout: Before the classifier.
        stochastic_depth: Of networks that were published with it; others go without.

    Raises:
        InputError: The library is not installed.
    """
    from torch import nn

    baseline = BASELINES[architecture.network]
    options: dict[str, Any] = {"num_classes": num_classes, baseline.dropout: dropout}
    if baseline.stochastic_depth:
        options[baseline.stochastic_depth] = stochastic_depth
    if baseline.width:
        options[baseline.width] = architecture.width
    network = library_function(baseline.library, baseline.function)(**options)
    num_strided = len(_OUTPUT_STRIDES) - _OUTPUT_STRIDES.index(architecture.output_stride) - 1
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    strided = [layer for layer in convolutions if layer.stride == (2, 2)]
    for convolution in strided[:num_strided]:
        convolution.stride = (1, 1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as in every other network here
            norm.eps, norm.momentum = 1e-5, 0.1
    return network


def library_function(library: str, name: str) -> Callable[..., nn.Module]:
    """The function of torchvision or timm that builds a classification network.

    Raises:
        InputError: An unknown network, or timm is not installed.
    """
    import torchvision

    if library == "torchvision":
        if name == "MNASNet":
            found: Callable[..., nn.Module] = torchvision.models.MNASNet
            return found
        names = torchvision.models.list_models(module=torchvision.models)
        if name in names:
            return lambda **options: torchvision.models.get_model(name, weights=None, **options)
        raise _unknown(library, name, names)
    try:
        import timm
    except ImportError:
        raise InputError(
            "NAME",
            name,
            "needs timm, which is not installed",
            fix="pip install 'fpnas[timm]', or use a network of torchvision",
        ) from None
    if timm.is_model(name):
        return lambda **options: timm.create_model(name, pretrained=False, **options)
    raise _unknown(library, name, timm.list_models())


def _unknown(library: str, name: str, names: list[str]) -> InputError:
    known = f"{len(names)} networks"
    return InputError(
        "NAME",
        f"{library}:{name}",
        "is not a classification network of this library",
        legal=f"one of its {known}",
        fix=closest(name, names)[:200],
    )
