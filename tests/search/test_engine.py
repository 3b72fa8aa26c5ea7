"""The prefix tree gives what running every architecture by itself gives."""

import pytest
import torch
from torch.nn import functional as F

from fpnas.architecture import largest_architecture
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.supernet import SharedBlock, Supernet
from fpnas.search.engine import PrefixTree
from fpnas.space import EXPANSION, KERNEL, load_space

SPACE = load_space("tiny").open(input_size=16)


def problem(seed=0, num_architectures=9, sharpness=0.0):
    """A supernet in double precision, architectures, weights and a batch."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    supernet = Supernet(SPACE, 5).double()
    distribution = FactorizedDistribution(ChoiceLayout.of(SPACE))
    distribution.logits.data.normal_(generator=generator).mul_(sharpness)
    choices = distribution.sample(num_architectures, generator)
    images = torch.randn(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (6,), generator=generator)
    weights = torch.rand(num_architectures, generator=generator).tolist()
    return supernet, choices, weights, images, labels


def paths_of(supernet, choices):
    return [tuple(supernet.architecture(choice).blocks()) for choice in choices]


def by_itself(supernet, choices, weights, images, labels):
    """The naive algorithm: every architecture a full forward and backward pass, in order."""
    supernet.zero_grad()
    losses = []
    for choice, weight in zip(choices, weights, strict=True):
        loss = F.cross_entropy(supernet(images, supernet.architecture(choice)), labels)
        (weight * loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses), [p.grad for p in supernet.parameters()]


@pytest.mark.parametrize("share_prefixes", [True, False])
@pytest.mark.parametrize("sharpness", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_and_gradients_are_those_of_the_naive_algorithm(seed, sharpness, share_prefixes):
    supernet, choices, weights, images, labels = problem(seed, sharpness=sharpness)
    losses, gradients = by_itself(supernet, choices, weights, images, labels)
    tree = PrefixTree(supernet, paths_of(supernet, choices), share_prefixes=share_prefixes)
    torch.testing.assert_close(tree.losses(images, labels), losses, rtol=1e-10, atol=0)
    supernet.zero_grad()
    torch.testing.assert_close(tree.backward(images, labels, weights), losses, rtol=1e-10, atol=0)
    for found, expected in zip(supernet.parameters(), gradients, strict=True):
        assert (found.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("share_prefixes", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("num_architectures", [1, 3, 40])
def test_a_forward_pass_keeps_what_fits(num_architectures, keep, share_prefixes):
    supernet, choices, weights, images, labels = problem(2, num_architectures, sharpness=1.0)
    weights[0] = 0.0 if num_architectures > 1 else 1.0
    losses, gradients = by_itself(supernet, choices, weights, images, labels)
    supernet.zero_grad()
    tree = PrefixTree(supernet, paths_of(supernet, choices), share_prefixes=share_prefixes)
    with SavedBytes() as saved:
        forward = tree.forward(images, labels, keep=keep)
        torch.testing.assert_close(forward.losses, losses, rtol=1e-10, atol=0)
        kept = set(forward.graphs)
        left = forward.backward(weights)
    assert left == [0.0 if n in kept else weight for n, weight in enumerate(weights)]
    assert saved.now == 0
    largest = largest_architecture(SPACE)
    with SavedBytes() as alone:
        F.cross_entropy(supernet(images, largest), labels).backward()
    if keep:
        assert (len(kept) == num_architectures) == (num_architectures < 40)
        assert 0 < saved.most <= 1.05 * alone.most
    else:
        assert not kept
    supernet.zero_grad()
    forward = tree.forward(images, labels, keep=keep)
    tree.backward(images, labels, forward.backward(weights))
    for found, expected in zip(supernet.parameters(), gradients, strict=True):
        if found.grad is None or expected is None:
            assert expected is None or not expected.any()
        else:
            torch.testing.assert_close(found.grad, expected, rtol=1e-9, atol=1e-12)


def test_single_precision_agrees_to_1e_5():
    supernet, choices, weights, images, labels = problem(sharpness=2.0)
    supernet, images = supernet.float(), images.float()
    _, gradients = by_itself(supernet, choices, weights, images, labels)
    supernet.zero_grad()
    PrefixTree(supernet, paths_of(supernet, choices)).backward(images, labels, weights)
    squared = [
        (p.grad - g).square().sum()
        for p, g in zip(supernet.parameters(), gradients, strict=True)
        if g is not None
    ]
    total = [g.square().sum() for g in gradients if g is not None]
    assert float(sum(squared) / sum(total)) ** 0.5 < 1e-5


def test_a_shared_layer_runs_once(monkeypatch):
    calls = []
    original = SharedBlock.forward

    def counting(self, images, spec):
        calls.append(spec)
        return original(self, images, spec)

    monkeypatch.setattr(SharedBlock, "forward", counting)
    supernet, choices, _, images, labels = problem(num_architectures=3)
    choices[:] = choices[0]
    choices[:, :, KERNEL] = 1
    choices[1, 3, EXPANSION] = 1 - choices[0, 3, EXPANSION].clamp(max=1)  # the fourth of five
    choices[2, 4, EXPANSION] = 1 - choices[0, 4, EXPANSION].clamp(max=1)
    PrefixTree(supernet, paths_of(supernet, choices)).losses(images, labels)
    # Groups of 1, 1, 2, 2 and 1 blocks: four blocks once, the fourth group twice, the last thrice.
    assert len(calls) == 4 + 2 * 2 + 3
    calls.clear()
    tree = PrefixTree(supernet, paths_of(supernet, choices), share_prefixes=False)
    tree.losses(images, labels)
    assert len(calls) == 3 * 7


def test_what_has_no_weight_is_not_run():
    supernet, choices, weights, images, labels = problem()
    weights[3] = 0.0
    _, gradients = by_itself(supernet, choices, weights, images, labels)
    supernet.zero_grad()
    found = PrefixTree(supernet, paths_of(supernet, choices)).backward(images, labels, weights)
    assert torch.isnan(found).tolist() == [number == 3 for number in range(9)]
    for parameter, expected in zip(supernet.parameters(), gradients, strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """The most bytes that gradient graphs held at one time."""

    def __init__(self):
        self.now = self.most = 0
        owner = self

        class Held:
            def __init__(self, tensor):
                # Without its history: a saved output would hold its own graph.
                self.tensor, self.bytes = tensor.detach(), tensor.numel() * tensor.element_size()
                owner.now += self.bytes
                owner.most = max(owner.most, owner.now)

            def __del__(self):
                owner.now -= self.bytes

        super().__init__(Held, lambda held: held.tensor)

    def __enter__(self):
        super().__enter__()
        return self


def test_memory_is_that_of_one_path():
    supernet, choices, weights, images, labels = problem(num_architectures=12, sharpness=1.0)
    with SavedBytes() as tree_bytes:
        PrefixTree(supernet, paths_of(supernet, choices)).backward(images, labels, weights)
    largest = 0
    for choice in choices:
        with SavedBytes() as alone:
            by_itself(supernet, [choice], [1.0], images, labels)
        largest = max(largest, alone.most)
    assert 0 < tree_bytes.most <= 1.01 * largest
