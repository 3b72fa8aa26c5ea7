"""Checks what the FP-NAS paper says, as far as that needs no training on ImageNet.

    python benchmarks/fidelity.py

Writes ``results/fidelity.csv``, one row a fact, and renders ``docs/fidelity.md`` from it. Takes
less than a minute on one core; the figures depend on the seed alone. The file is longer than
others because every fact stands in it once, beside the code that checks it.

Tensor shapes: A sampled architectures, G block groups, M = 5 variables.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import platform
import subprocess
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from fpnas.architecture import Architecture, GroupSpec, mid_channels
from fpnas.cost import CostModel, count_macs, output_size
from fpnas.distribution import (
    AbstractDistribution,
    ChoiceLayout,
    FactorizedDistribution,
    JointDistribution,
)
from fpnas.estimator import (
    adaptive_num_samples,
    architecture_coefficients,
    hinge_cost,
    importance_weights,
    surrogate_loss,
)
from fpnas.networks.network import SplitAttention, build_block
from fpnas.search.options import SearchOptions
from fpnas.space import CHANNELS, EXPANSION, SPLITS, SearchSpace, load_space

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
NUM_SAMPLES = 400_000
CLASSES = 1000
MILLION = 1e6
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Fact:
    """One statement of the paper beside our figure.

    Attributes:
        fact: What is stated, with its unit.
        mark: P printed in the paper, D derived from printed facts by calculation.
        paper: The paper's value.
        ours: Our value.
        deviation: Of ours from the paper's.
        tolerance: What still agrees.
        verdict: ``agrees`` or ``differs``.
        how: How it is checked.
    """

    fact: str
    mark: str
    paper: str
    ours: str
    deviation: str
    tolerance: str
    verdict: str
    how: str


@dataclass(frozen=True)
class Tolerance:
    """The values that agree, from low to high, and the same in words."""

    low: float
    high: float
    words: str


def last_digit(printed: str) -> Tolerance:
    """Returns the values that may have been rounded to what is printed."""
    value = Decimal(printed)
    half = Decimal((0, (5,), int(value.as_tuple().exponent) - 1))
    return Tolerance(float(value - half), float(value + half), "last digit")


def percent(printed: str, percentage: float) -> Tolerance:
    value, part = float(printed), percentage / 100
    return Tolerance(value * (1 - part), value * (1 + part), f"{percentage:g} %")


def factor(printed: str, times: float) -> Tolerance:
    return Tolerance(float(printed) / times, float(printed) * times, f"a factor of {times:g}")


def at_least(printed: str) -> Tolerance:
    return Tolerance(float(printed), math.inf, "at least")


def at_most(limit: float) -> Tolerance:
    return Tolerance(-math.inf, limit, f"at most {number(limit)}")


def number(value: float) -> str:
    """Writes a number with as many digits as matter here."""
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.4e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


def deviation(ours: float, paper: float) -> str:
    if ours == paper:
        return "0"
    if paper == 0:
        return number(ours)
    ratio = ours / paper
    if not 0.5 < ratio < 2:
        return f"x {ratio:.2g}"
    words = f"{100 * (ratio - 1):+.1f} %"
    return "0.0 %" if words[1:] == "0.0 %" else words


def compare(
    fact: str, mark: str, paper: str, ours: float, how: str, tolerance: Tolerance | None = None
) -> Fact:
    """Compares two numbers; without a tolerance ours must round to what is printed."""
    accepted = tolerance or last_digit(paper)
    verdict = "agrees" if accepted.low <= ours <= accepted.high else "differs"
    away = "-" if accepted.words == "at least" else deviation(ours, float(paper))
    return Fact(fact, mark, paper, number(ours), away, accepted.words, verdict, how)


def compare_one(fact: str, paper: str, ours: Tensor, how: str) -> Fact:
    """Compares the figure of the one architecture of the paper with those of many of ours.

    It agrees when it lies within the middle 90 %; the deviation is that of the median.
    """
    low, median, high = (ours.quantile(part).item() for part in (0.05, 0.5, 0.95))
    verdict = "agrees" if low <= float(paper) <= high else "differs"
    text = f"{median:.1f} ({low:.1f} to {high:.1f})"
    return Fact(
        fact, "P", paper, text, deviation(median, float(paper)), "middle 90 %", verdict, how
    )


def match(fact: str, mark: str, paper: str, ours: str, how: str) -> Fact:
    """Compares two texts."""
    away, verdict = ("0", "agrees") if paper == ours else ("-", "differs")
    return Fact(fact, mark, paper, ours, away, "none", verdict, how)


def by_rounding(of: Callable[..., float], *operands: str) -> tuple[float, float, float]:
    """Returns what printed figures give: by their middles, and at least and at most.

    An operand is a number, or two with ``to`` between them. ``of`` has to be monotonic in each.
    """
    ranges = []
    for operand in operands:
        ends = [last_digit(end) for end in operand.split(" to ")]
        ranges.append((ends[0].low, ends[-1].high))
    corners = [of(*corner) for corner in itertools.product(*ranges)]
    return of(*(sum(ends) / 2 for ends in ranges)), min(corners), max(corners)


def consistent(fact: str, paper: str, of: Callable[..., float], *operands: str, how: str) -> Fact:
    """Compares a printed figure with what other printed figures give, all of them rounded."""
    middle, low, high = by_rounding(of, *operands)
    accepted = last_digit(paper)
    verdict = "agrees" if low <= accepted.high and high >= accepted.low else "differs"
    text = f"{number(middle)} ({number(low)} to {number(high)})"
    away = deviation(middle, float(paper))
    return Fact(fact, "P", paper, text, away, "rounding of all", verdict, how)


def gap(first: Any, second: Any) -> float:
    """Largest absolute difference, as the next power of ten: what is below is the processor's."""
    difference = float(np.abs(np.asarray(first) - np.asarray(second)).max())
    return 10.0 ** math.ceil(math.log10(difference)) if difference else 0.0


def uniform(space: SearchSpace) -> FactorizedDistribution:
    """The distribution at the start of a search."""
    return FactorizedDistribution(ChoiceLayout.of(space))


@cache
def draw(name: str, model: str, num_samples: int) -> Tensor:
    """Draws architectures uniformly, (A, G, M)."""
    space = load_space(name).open(model)
    return uniform(space).sample(num_samples, torch.Generator().manual_seed(SEED))


def macs_in_millions(space: SearchSpace, choices: Tensor) -> Tensor:
    return CostModel(space, CLASSES).macs(choices).double() / MILLION


def space_facts(_num_samples: int) -> list[Fact]:
    f, plus = load_space("fbnetv2_f").open(), load_space("sa_f").open()
    points = "product of the numbers of choices"
    entropy = "of the factorized distribution at its start"
    repeats = "sum of the repeats"
    rows = "112x16 112x16 56x24 56x24 28x40 28x40 14x80 14x80 14x112 7x184 7x184"
    our_rows = " ".join(row_inputs(load_space("fbnetv2_f").open(input_size=224)))
    rounded = 100 * float(np.mean(rounding_of_mid_widths(f)))
    inputs = ", ".join(input_sizes(name) for name in ("sa_f", "sa_expanded"))
    facts = [
        compare("F: points", "D", "2.6956e24", f.size, points),
        compare("F: points, as printed", "P", "6e25", f.size, points),
        compare("F: entropy, nats", "D", "56.25", uniform(f).entropy().item(), entropy),
        compare("F: blocks", "P", "17", f.num_blocks, repeats),
        match("F: input of every row at 224 px", "P", rows, our_rows, "strides and widest choices"),
        compare("F: mid widths rounded to 8, at least 8, %", "D", "100", rounded, "all of them"),
        compare("F++: blocks", "P", "17", plus.num_blocks, repeats),
        compare("F++: points by F's", "P", "1e3", plus.size / f.size, points, at_least("1e3")),
        match("Input, px", "P", "128 160 192 256, 224 240 256", inputs, "S1 to S4, L0 to L2"),
    ]
    expanded = load_space("sa_expanded")
    for name, size, blocks, space in (
        ("F-Fine", "1e45", "17", load_space("fbnetv2_f_fine").open()),
        ("L0", "2e32", "27", expanded.open("l0")),
        ("L1", "1e36", "32", expanded.open("l1")),
        ("L2", "1e36", "32", expanded.open("l2")),
    ):
        nats, ours = math.log(float(size)), uniform(space).entropy().item()
        near = Tolerance(nats - math.log(10), nats + math.log(10), "ln 10")
        facts += [
            compare(f"{name}: points", "P", size, space.size, points, factor(size, 10)),
            compare(f"{name}: entropy, nats", "D", f"{nats:.1f}", ours, entropy, near),
            compare(f"{name}: blocks", "P", blocks, space.num_blocks, repeats),
        ]
    return facts


def row_inputs(space: SearchSpace) -> list[str]:
    size, channels = output_size(space.input_size, space.stem_stride), space.stem_channels
    inputs = [f"{size}x{channels}"]
    for group in space.groups:
        size, channels = output_size(size, group.stride), max(group.choices[CHANNELS].values)
        inputs.append(f"{size}x{channels}")
    return inputs


def rounding_of_mid_widths(space: SearchSpace) -> list[bool]:
    widths = {width for group in space.groups for width in group.choices[CHANNELS].values}
    expansions = {value for group in space.groups for value in group.choices[EXPANSION].values}
    rounded = {(w, e): int(mid_channels(w, e)) for w in widths for e in expansions}
    return [
        mid % 8 == 0 and (abs(mid - w * e) <= 4 or w * e < mid == 8)
        for (w, e), mid in rounded.items()
    ]


def input_sizes(name: str) -> str:
    return " ".join(str(model.input_size) for model in load_space(name).models.values())


def distribution_facts(_num_samples: int) -> list[Fact]:
    example = ChoiceLayout(torch.tensor([[3, 2, 2, 6, 10]]))
    f = load_space("fbnetv2_f").open()
    facts = []
    for name, layout, mark, factorized, joint, ratio in (
        ("Example [3, 2, 2, 6, 10]", example, "P", "23", "720", "31.3"),
        ("F", ChoiceLayout.of(f), "D", "176", "3624", "20.6"),
        ("F++", ChoiceLayout.of(load_space("sa_f").open()), "D", "196", "7248", "37"),
    ):
        coarse = FactorizedDistribution(layout).num_parameters()
        fine = JointDistribution(layout).num_parameters()
        how = "logits; a variable with one choice has none"
        facts += [
            compare(f"{name}: factorized parameters", mark, factorized, coarse, how),
            compare(f"{name}: joint parameters", mark, joint, fine, how),
            compare(f"{name}: joint by factorized", "D", ratio, fine / coarse, "their quotient"),
        ]
    default, entropy = SearchOptions.sampling_rate, uniform(f).entropy().item()
    facts.append(compare("Default lambda", "P", "0.25", default, "of the search options"))
    for words, samples in (("1/4", "14"), ("1/8", "7"), ("1/16", "4")):
        drawn = adaptive_num_samples(entropy, float(Fraction(words)))
        how = "lambda times entropy at the uniform start of F, rounded"
        facts.append(compare(f"K at lambda = {words}", "D", samples, drawn, how))
    return facts + conversion_facts()


def random_distribution(kind: type[AbstractDistribution], space: SearchSpace) -> Any:
    distribution = kind(ChoiceLayout.of(space))
    generator = torch.Generator().manual_seed(SEED)
    distribution.logits.data.normal_(std=2.0, generator=generator)
    return distribution


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def conversion_facts() -> list[Fact]:
    """The conversion to the joint distribution, against products in double precision."""
    coarse = random_distribution(FactorizedDistribution, load_space("sa_expanded").open("l2"))
    joint = coarse.to_joint()
    expected, nats = [], 0.0
    for logits, sizes in zip(
        coarse.logits.detach().double().numpy(), coarse.layout.sizes.tolist(), strict=True
    ):
        product = np.ones(())
        for variable, size in zip(logits, sizes, strict=True):
            probabilities = softmax(variable[:size])
            nats -= float(probabilities @ np.log(probabilities))
            product = np.multiply.outer(product, probabilities)
        expected.append(product)
    pairs = zip(joint.joint_probabilities(), expected, strict=True)
    change = max(gap(ours, product) for ours, product in pairs)
    entropy_change = gap(joint.entropy().item(), nats)
    how = "random logits in L2, against products in double precision"
    return [
        compare("Conversion: change of a probability", "D", "0", change, how, at_most(1e-5)),
        compare("Conversion: change of entropy", "D", "0", entropy_change, how, at_most(1e-3)),
    ]


def estimator_facts(_num_samples: int) -> list[Fact]:
    space = load_space("fbnetv2_f").open()
    generator = torch.Generator().manual_seed(SEED)
    log_likelihoods = torch.randn(14, generator=generator, dtype=torch.float64).requires_grad_()
    costs = torch.rand(14, generator=generator, dtype=torch.float64)
    weights = importance_weights(log_likelihoods.detach(), batch_size=1, temperature="sum").weights
    log_likelihoods.logsumexp(0).backward()
    beta, omega = 0.3, softmax(log_likelihoods.detach().numpy())
    ours = architecture_coefficients(weights, costs, cost_weight=beta, baseline=False)
    free = architecture_coefficients(weights, 0 * costs, cost_weight=beta, baseline=False)
    formula = omega - beta * costs.numpy() / costs.numpy().sum()
    coarse = random_distribution(FactorizedDistribution, space)
    fine = random_distribution(JointDistribution, space)
    one = torch.ones(1, dtype=torch.float64)
    one_hot = "gradient of -log P: softmax - one-hot"
    alpha, random = "equation 7: gradient of alpha", "backpropagation against it, random logits"
    summed = "derivative of log sum exp of 14 random log-likelihoods"
    omega_gap = gap(weights, log_likelihoods.grad)
    return [
        compare(fact, mark, "0", value, how, at_most(limit))
        for fact, mark, value, how, limit in (
            ("omega_k = P_k / sum P_j", "D", omega_gap, summed, 1e-9),
            ("Equation 7: m_k", "P", gap(ours, formula), "14 random ones", 1e-9),
            ("m_k where every cost is 0", "D", gap(free, weights), "it is omega_k", 1e-9),
            (f"Factorized, {one_hot}", "D", gradient_gap(coarse, one, generator), random, 1e-5),
            (f"Joint, {one_hot}", "D", gradient_gap(fine, one, generator), random, 1e-5),
            (f"Factorized, {alpha}", "P", gradient_gap(coarse, ours, generator), random, 1e-5),
            (f"Joint, {alpha}", "P", gradient_gap(fine, ours, generator), random, 1e-5),
        )
    ]


def gradient_gap(distribution: Any, coefficients: Tensor, generator: torch.Generator) -> float:
    """Compares the gradient of the loss on alpha with sum m_k (softmax - one-hot)."""
    choices = distribution.sample(len(coefficients), generator)
    distribution.logits.grad = None
    surrogate_loss(coefficients, distribution.log_prob(choices)).backward()
    layout = distribution.layout
    joint = isinstance(distribution, JointDistribution)
    # Categoricals one below the other: groups, or the variables of all groups.
    numbers = layout.ravel(choices) if joint else choices.flatten(1)
    sizes = layout.joint_sizes.tolist() if joint else layout.sizes.flatten().tolist()
    logits = distribution.logits.detach().double().flatten(0, -2).numpy()
    expected = np.zeros_like(logits)
    for row, size in enumerate(sizes):
        expected[row, :size] = float(coefficients.sum()) * softmax(logits[row, :size])
        np.subtract.at(expected[row], numbers[:, row].numpy(), coefficients.numpy())
    return gap(distribution.logits.grad.flatten(0, -2), expected)


def cost_facts(num_samples: int) -> list[Fact]:
    facts = []
    drawn, how = draw("fbnetv2_f", "s1", num_samples), f"{num_samples} drawn uniformly"
    for size, median, largest in (
        (128, "34", "107"),
        (160, "52", "166"),
        (192, "72", "237"),
        (224, "99", "321"),
        (256, "128", "418"),
    ):
        space = load_space("fbnetv2_f").open(input_size=size)
        middle = macs_in_millions(space, drawn).median().item()
        high = CostModel(space, CLASSES).range_macs()[1] / MILLION
        name = f"F at {size} px"
        facts += [
            compare(f"{name}: median, M MACs", "D", median, middle, how, percent(median, 2)),
            compare(f"{name}: largest, M MACs", "D", largest, high, "dynamic programming"),
        ]
    facts += start_facts(macs_in_millions(load_space("fbnetv2_f").open("s1"), drawn))
    for model, median in (("l0", "0.39"), ("l1", "0.9"), ("l2", "1.1")):
        space = load_space("sa_expanded").open(model)
        # L1 and L2 have the same groups, so they share the draw.
        choices = draw("sa_expanded", "l0" if model == "l0" else "l1", num_samples)
        middle = macs_in_millions(space, choices).median().item() / 1000
        fact = f"{model.upper()}: median, G MACs"
        facts.append(compare(fact, "P", median, middle, how, percent(median, 5)))
    return facts + unit_facts()


def start_facts(macs: Tensor) -> list[Fact]:
    """What costs are at the start of a search for 58 M at 128 px."""
    free = macs <= 58
    # The cost term is 0 in a step if the costs of all K = 14 are.
    steps = free[: len(free) // 14 * 14].view(-1, 14).all(dim=1)
    share, share_of_steps = (100 * part.double().mean().item() for part in (free, steps))
    hinge = hinge_cost(macs.median()[None] * MILLION, round(58 * MILLION)).item()
    half, drawn = at_least("50"), f"{len(macs)} drawn uniformly"
    more, none = "more than half within 58 M, %", "usually no cost in 14 draws, %"
    return [
        compare(f"F at 128 px: {more}", "D", "50", share, drawn, half),
        compare("F at 128 px: cost of the median", "D", "0", hinge, "hinge at 58 M"),
        compare(f"F at 128 px: {none}", "D", "50", share_of_steps, f"{drawn}, in 14s", half),
    ]


def unit_facts() -> list[Fact]:
    """Whether the paper's FLOPS are multiply-accumulates: networks that torchvision has too."""
    facts = []
    for name, title, size, printed in (
        ("mobilenet_v3_small", "MobileNetV3-Small", 224, "66"),
        ("mobilenet_v3_large", "MobileNetV3-Large", 224, "219"),
        ("efficientnet_b0", "EfficientNet-B0", 224, "390"),
        ("efficientnet_b1", "EfficientNet-B1", 240, "734"),
        ("efficientnet_b2", "EfficientNet-B2", 260, "1050"),
    ):
        with torch.device("meta"):
            network = get_model(name, weights=None)
        how = f"count_macs on torchvision's at {size} px; the question is a factor of 2"
        macs = count_macs(network, size) / MILLION
        fact = f"FLOPS are MACs: {title}, M"
        facts.append(compare(fact, "D", printed, macs, how, percent(printed, 25)))
    return facts


def attention_facts(num_samples: int) -> list[Fact]:
    facts = structure_facts()
    file = load_space("sa_f")
    values = file.open().groups[0].choices[SPLITS].values
    drawn = draw("sa_f", "s1pp", num_samples)
    own = drawn.clone()
    own[:, :, SPLITS] %= 2  # squeeze-and-excitation or none, as in F
    assert values[:2] == (0, 1)
    for model, name, printed in (
        ("s1pp", "S1", ("58", "65", "79")),
        ("s2pp", "S2", ("88", "99", "120")),
        ("s3pp", "S3", ("131", "141", "170")),
        ("s4pp", "S4", ("240", "262", "307")),
    ):
        space, macs = file.open(model), {}
        for index, splits in enumerate(values):
            everywhere = drawn.clone()
            everywhere[:, :, SPLITS] = index
            macs[splits] = macs_in_millions(space, everywhere)
        bases = {"F's own": macs_in_millions(space, own)}
        if model == "s1pp":
            bases |= {"no attention": macs[0], "squeeze-and-excitation": macs[1]}
        for words, base in bases.items():
            near = (base / float(printed[0]) - 1).abs() < 0.02
            how = f"{int(near.sum())} random ones within 2 % of {printed[0]} M"
            for splits, total in zip((2, 4), printed[1:], strict=True):
                fact = f"{name}: {splits} splits instead of {words}, added M MACs"
                more = str(int(total) - int(printed[0]))
                facts.append(compare_one(fact, more, (macs[splits] - base)[near], how))
        ratio = ((macs[4] - macs[1]) / (macs[2] - macs[1])).nanmedian().item()
        facts.append(splits_ratio(name, printed, ratio))
    return facts


def splits_ratio(name: str, printed: tuple[str, str, str], ours: float) -> Fact:
    """What 4 splits add to squeeze-and-excitation, as a multiple of what 2 add."""
    paper, low, high = by_rounding(lambda base, two, four: (four - base) / (two - base), *printed)
    accepted = Tolerance(low, high, f"{low:.2f} to {high:.2f} by rounding")
    fact = f"{name}: what 4 splits add, by what 2 add"
    return compare(fact, "D", f"{paper:.2f}", ours, "each split adds the same layers", accepted)


def structure_facts() -> list[Fact]:
    how = "convolutions and linear layers as they run"
    facts = []
    for splits in (0, 1, 2, 4):
        attention = ["linear", "linear"] if splits else []
        paper = ["1x1", *["depthwise"] * max(splits, 1), *attention, "1x1"]
        ours = layers(3, splits, 1)
        facts.append(match(f"MBConv, splits {splits}", "P", ", ".join(paper), ", ".join(ours), how))
    skip, strided = layers(0, 0, 1), layers(0, 0, 2)
    how = "layers as they run"
    facts.append(match("Skip", "P", "identity", ", ".join(skip), how))
    facts.append(match("Skip, stride 2", "D", "1x1, norm, ReLU", ", ".join(strided), how))
    how = "branches of ones, against what they should come out as"
    for splits in (1, 2, 4):
        module = SplitAttention(16, splits)
        nn.init.normal_(module.expand.bias, generator=torch.Generator().manual_seed(SEED))
        nn.init.zeros_(module.expand.weight)
        merged = module([torch.ones(1, 16, 4, 4)] * splits).detach()[0, :, 0, 0]
        bias = module.expand.bias.detach()
        # Of branches of ones a softmax keeps ones.
        expected, words = torch.ones(16), "softmax"
        if splits == 1:
            expected, words = bias.sigmoid(), "sigmoid"
        difference = gap(merged, expected)
        fact = f"Attention over {splits}: {words}"
        facts.append(compare(fact, "P", "0", difference, how, at_most(1e-5)))
    return facts


def layers(kernel: int, splits: int, stride: int) -> list[str]:
    """Names the layers of a block of 16 channels in the order in which they run."""
    group = GroupSpec(3.0, 16, kernel, "relu", splits, repeat=1, stride=stride)
    block = build_block(Architecture("block", "-", 8, 16, 1, (group,), 8).blocks()[0]).eval()
    ran: list[str] = []

    def note(layer: nn.Module, *_: Any) -> None:
        if isinstance(layer, nn.Conv2d):
            ran.append("depthwise" if layer.groups > 1 else "1x1")
            assert layer.kernel_size[0] == (kernel if layer.groups > 1 else 1)
        elif isinstance(layer, nn.Linear):
            ran.append("linear")
        elif kernel == 0:
            names = {nn.BatchNorm2d: "norm", nn.ReLU: "ReLU", nn.Identity: "identity"}
            ran.extend(word for kind, word in names.items() if isinstance(layer, kind))

    for layer in block.modules():
        layer.register_forward_hook(note)
    with torch.no_grad():
        block(torch.zeros(1, 16, 8, 8))
    return ran


def quotient(first: float, second: float) -> float:
    return first / second


def fewer(first: float, second: float) -> float:
    return 100 * (1 - first / second)


def minus(first: float, second: float) -> float:
    return first - second


def bill_facts(_num_samples: int) -> list[Fact]:
    parsec = 14 * 10.7
    samples, days, points = "thousands of samples", "GPU-days", "top-1"
    facts = [
        compare("Samples of PARSEC, thousands", "D", "150", parsec, "14 a step", percent("150", 1)),
        consistent("Fewer samples, %", "64", fewer, "54.3", "149.8", how=samples),
        consistent("Fewer, adaptive alone, %", "60", fewer, "59.9", "149.8", how=samples),
        consistent("Faster than PARSEC", "2.1", quotient, "4.3 to 4.4", "2.1", how=days),
        consistent("Faster, adaptive alone", "1.8", quotient, "4.3 to 4.4", "2.4", how=days),
        consistent("Faster, coarse to fine", "1.2", quotient, "2.4", "2.1", how=days),
        consistent("S1 faster than FBNetV2", "3.5", quotient, "8.3", "2.4", how=days),
        consistent("S4 faster than FBNetV2", "1.9", quotient, "8.3", "4.3", how=days),
        consistent("L0 faster than EfficientNet-B0", "132", quotient, "3790", "28.7", how=days),
        consistent("L0 above EfficientNet-B0", "0.7", minus, "78.0", "77.3", how=points),
        consistent("L2 above EfficientNet-B2", "0.4", minus, "80.7", "80.3", how=points),
        consistent("L2 distilled above BigNAS-XL", "0.7", minus, "81.6", "80.9", how=points),
    ]
    sample_days = (4.4 - 2.4) / (parsec - 59.9)
    seconds, fixed = sample_days * SECONDS_A_DAY / 1000, 2.4 - 59.9 * sample_days
    how = "line through PARSEC (4.4 days) and adaptive, joint only (2.4)"
    facts.append(compare("Cost of a sample, GPU-seconds", "D", "1.9", seconds, how))
    facts.append(compare("Fixed cost, GPU-days", "D", "1.1", fixed, how))
    for name, thousands, printed in (
        ("PARSEC", parsec, "4.35"),
        ("joint only", 59.9, "2.4"),
        ("factorized only", 54.4, "2.2"),
        ("theta = 80", 54.3, "2.1"),
        ("theta = 150", 51.8, "2.1"),
    ):
        line = 1.1 + 1.9 * thousands * 1000 / SECONDS_A_DAY
        fact, how = f"GPU-days by 1.1 + 1.9 s a sample: {name}", f"{thousands:.1f} thousand samples"
        facts.append(compare(fact, "D", printed, line, how, percent(printed, 10)))
    return facts


SECTIONS: dict[str, Callable[[int], list[Fact]]] = {
    "Search spaces": space_facts,
    "Distributions": distribution_facts,
    "Estimators": estimator_facts,
    "Cost": cost_facts,
    "Split-Attention": attention_facts,
    "The bill": bill_facts,
}
INTRODUCTIONS = {
    "Search spaces": "F is FBNetV2-F. The paper prints the table of F alone; those of F-Fine, L0, "
    "L1 and L2 are ours, made to meet what it prints about them: the blocks exactly, the size "
    "within a factor of 10, the median cost within 5 %.",
    "Distributions": "A conversion should change nothing. Differences are given as the power of "
    "ten above them, here and below.",
    "Estimators": "The formulas as they are printed, without temperature and baseline, which are "
    "ours. The figures are differences from them.",
    "Cost": "MACs are multiply-accumulates of convolutions and linear layers; the paper's FLOPS "
    "are these. The last five rows count networks that it quotes and torchvision has, which need "
    "not be the same version; the question there is a factor of 2.",
    "Split-Attention": "Of one architecture of each size the paper prints the cost with 2 and with "
    "4 splits in every block, but not the table. Ours are random architectures of the same cost; "
    "the paper's should lie within the middle 90 % of what the splits add to them.",
    "The bill": "Arithmetic on printed figures, each of which is rounded: do they fit together?",
}
# Every fact that differs needs a line here, and no other has one.
REMARKS = {
    "F: points, as printed": "the printed table has 2.7e24 points. Their logarithm, 56.25, gives "
    "the K of the paper's comparison; 6e25 would give 15 at lambda = 1/4.",
    "S3: 2 splits instead of F's own, added M MACs": "see the next one.",
    "S3: what 4 splits add, by what 2 add": "each split adds the same, so 4 add three times what 2 "
    "add, and S1, S2 and S4 agree. The printed 131, 141 and 170 M do not belong together; 144 M "
    "for 2 splits, or 161 M for 4, would.",
}
CONTRADICTIONS = (
    ("Search cost of S1++, GPU-days", "4.4", "6.7"),
    ("Top-1 of FBNetV2-F4", "75.9", "75.8"),
    ("Cost of the architecture found with fixed K = 14, M MACs", "59", "56"),
)
NOT_CHECKED = (
    "top-1 on ImageNet of every model, and the points that adaptive sampling, coarse to fine, "
    "searched splits and distillation gain",
    "the architectures that the paper found, hence their MACs and parameters: their tables are not "
    "printed",
    "the samples that an adaptive search draws (51.8 to 59.9 thousand), which follow from the "
    "entropy during a search on ImageNet-100",
    "GPU-days on V100",
    "the results of other methods, which the paper quotes",
)


def environment() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return {
        "seed": str(SEED),
        "commit": commit.stdout.strip() or "uncommitted",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "torchvision")},
    }


def measure(section: str, num_samples: int = NUM_SAMPLES) -> list[dict[str, str]]:
    """Checks the facts of one section."""
    return [{"section": section, **asdict(fact)} for fact in SECTIONS[section](num_samples)]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    cells = [list(header), *([cell or "-" for cell in row] for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(cells[0])}", *lines[1:], ""]


def render(rows: list[dict[str, str]]) -> str:
    """Writes the document from the rows of the CSV file."""
    differing = [row["fact"] for row in rows if row["verdict"] != "agrees"]
    packages = ", ".join(f"{name} {rows[0][name]}" for name in ("numpy", "torch", "torchvision"))
    first = rows[0]
    lines = [
        "# Fidelity to the paper",
        "",
        *wrapped(
            "What the FP-NAS paper says, beside what this code gives, as far as no training on "
            f"ImageNet is needed. Made by `benchmarks/fidelity.py` at commit {first['commit']} "
            f"with Python {first['python']}, {packages}, seed {first['seed']}; the figures are "
            "those of `results/fidelity.csv`. No accelerator, no timings."
        ),
        *wrapped(
            f"Of {len(rows)} facts {len(rows) - len(differing)} agree and {len(differing)} differ. "
            "Mark P: printed in the paper; D: derived from printed facts by calculation. A "
            "tolerance of the last digit means that ours rounds to what is printed."
        ),
        "## What differs",
        "",
        *(f"- {fact}: {REMARKS.get(fact, 'not explained.')}" for fact in differing),
        "",
    ]
    columns = ("fact", "mark", "paper", "ours", "deviation", "tolerance", "verdict", "how")
    for section in SECTIONS:
        found = [row for row in rows if row["section"] == section]
        lines += [f"## {section}", "", *wrapped(INTRODUCTIONS[section])]
        lines += table(columns, ([row[name] for name in columns] for row in found))
    lines += ["## Contradictions inside the paper", ""]
    lines += table(("what", "in one place", "in another"), CONTRADICTIONS)
    lines += ["## Not checked", "", "These need training at the paper's scale:", ""]
    lines += [*(f"- {text}" for text in NOT_CHECKED), ""]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    return [*textwrap.wrap(text, 100), ""]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "fidelity.csv")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "fidelity.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [{**row, **environment()} for section in SECTIONS for row in measure(section)]
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    arguments.document.write_text(render(read(arguments.output)))


if __name__ == "__main__":
    main()
