"""Every option of a recipe that acts in a step changes it as it says."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpnas.networks.network import MBConv, Network
from fpnas.state import pack, unpack
from fpnas.training.batch_norm import portable_state, set_batch_norm
from fpnas.training.recipe import Recipe

from .test_training_loop import (
    ARCHITECTURE,
    BATCH,
    CLASSES,
    LINEAR,
    Flat,
    MemoryBatches,
    make_trainer,
)


class Deep(nn.Module):
    """Convolutions that half precision and the memory layout reach, without norms."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, CLASSES, 3, padding=1)
        self.seen = []

    def forward(self, images):
        hidden = self.first(images)
        self.seen.append((hidden.dtype, images.is_contiguous(memory_format=torch.channels_last)))
        return self.second(hidden.relu()).mean(dim=(2, 3))


def deep():
    torch.manual_seed(3)
    return Deep()


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def recipe(**options):
    return Recipe(**{"epochs": 2, "warmup_epochs": 0, "ema_decay": 0.0, **options})


def train(options, network=None, steps=None):
    trainer = make_trainer(recipe(**options), network or deep())
    if steps is None:
        trainer.run(lambda _record: None)
        return trainer
    batches = iter(trainer.batches)
    for _ in range(steps):
        trainer._train_step(*next(batches))
    return trainer


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_add_up_to_the_gradient_of_the_whole(parts):
    seen = []

    class Counted(Deep):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    whole, cut = deep(), Counted()
    cut.load_state_dict(whole.state_dict())
    train({}, whole)
    train({"accumulation": parts}, cut)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-4, atol=1e-6)
    assert set(seen) == {BATCH // parts, BATCH}  # and whole batches in evaluation


def test_parts_of_unequal_size_weigh_what_they_hold():
    one, two = train(vars(LINEAR), Flat(), steps=0), train(vars(LINEAR), Flat(), steps=0)
    # 2 + 2 + 1 + 1 pictures, which norms would not bear.
    object.__setattr__(two.recipe, "accumulation", 4)
    for batch, _ in zip(MemoryBatches(), range(3), strict=False):
        one._train_step(*batch)
        two._train_step(*batch)
    torch.testing.assert_close(weights(two.network), weights(one.network))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_is_that_of_the_layers_in_training_only(precision, dtype):
    trainer = train({"precision": precision, "learning_rate": 0.05})
    seen = [kind for kind, _ in trainer.network.seen]
    # The evaluation of every epoch and the last one take two batches each.
    assert seen.count(dtype) >= trainer.num_steps
    if dtype is not torch.float32:
        assert seen.count(dtype) == trainer.num_steps
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())
    assert trainer.num_skipped == 0
    exact = weights(train({"learning_rate": 0.05}).network)
    torch.testing.assert_close(weights(trainer.network), exact, rtol=0.1, atol=0.02)
    assert torch.equal(weights(trainer.network), exact) == (precision == "fp32")


def test_fp16_halves_its_scale_when_a_gradient_overflows_and_goes_on():
    trainer = make_trainer(recipe(precision="fp16", max_skipped_steps=40), deep())
    trainer._scaler.load_state_dict({**trainer._scaler.state_dict(), "scale": 2.0**30})
    trainer.run(lambda _record: None)
    assert trainer.num_skipped > 2
    assert trainer._scaler.get_scale() == 2.0 ** (30 - trainer.num_skipped)
    other = make_trainer(recipe(precision="fp16"), deep())
    other.load_state(unpack(*pack(trainer.state())))
    assert other._scaler.get_scale() == trainer._scaler.get_scale()


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_layout_is_that_of_the_recipe(channels_last):
    trainer = train({"channels_last": channels_last}, steps=2)
    assert {layout for _, layout in trainer.network.seen} == {channels_last}


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    found = [
        train({"compile": compiled, "learning_rate": 0.02}, Network(ARCHITECTURE, CLASSES), 3)
        for compiled in (False, True)
        if torch.manual_seed(2)
    ]
    eager, compiled = found
    assert compiled._forward is not compiled.network
    torch.testing.assert_close(
        weights(compiled.network), weights(eager.network), rtol=1e-3, atol=1e-4
    )
    assert compiled.state()["network"].keys() == eager.state()["network"].keys()


@pytest.mark.parametrize("option", ["mixup", "cutmix", "both"])
def test_mixed_pictures_are_trained_on_their_mixed_labels(option):
    options = {"mixup": 0.8, "cutmix": 0.8} if option == "both" else {option: 0.8}
    seen = []

    def loss(logits, labels, rows):
        assert labels.tolist() == by_row[rows].tolist()
        seen.append((labels, F.cross_entropy(logits, labels)))
        return seen[-1][1]

    trainer = make_trainer(recipe(**options), deep(), loss=loss)
    images, by_row, rows = next(iter(MemoryBatches()))
    total = trainer._backward(images, by_row, rows)
    (own, first), (partners, second) = seen
    assert own.tolist() == by_row.tolist()
    assert sorted(partners.tolist()) == sorted(by_row.tolist())
    low, high = sorted([first.item(), second.item()])
    assert low <= total <= high
    plain = make_trainer(recipe(), deep())._backward(images, by_row, rows)
    assert total != plain


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.4},
        {"mixup": 0.4, "cutmix": 1.0, "accumulation": 2},
        {"stochastic_depth": 0.5, "dropout": 0.3},
        {"precision": "bf16"},
        {"precision": "fp16", "optimizer": "adamw"},
        {"batch_norm_momentum": 0.3, "batch_norm_eps": 1e-3},
    ],
    ids=str,
)
def test_a_run_with_any_option_goes_on_bit_for_bit(options):
    chosen = recipe(ema_decay=0.9, learning_rate=0.05, **options)

    def start():
        torch.manual_seed(4)
        regular = {k: v for k, v in options.items() if k in ("stochastic_depth", "dropout")}
        network = Network(ARCHITECTURE, CLASSES, **regular)
        set_batch_norm(network, chosen)
        return make_trainer(chosen, network)

    class Stop(Exception):
        pass

    whole, stopped, resumed = start(), start(), start()
    whole.run(lambda _record: None)

    def stop(_record):
        if stopped.step == 3:
            raise Stop

    with pytest.raises(Stop):
        stopped.run(stop)
    saved = pack(stopped.state())
    torch.manual_seed(8)  # another process
    resumed.load_state(unpack(*saved))
    resumed.run(lambda _record: None)
    for name, value in whole.state()["average"].items():
        assert torch.equal(resumed.state()["average"][name], value), name


def test_another_seed_draws_otherwise():
    found = []
    for seed in (0, 0, 1):
        trainer = make_trainer(recipe(mixup=1.0), deep())
        trainer.seed = seed
        found.append(trainer._backward(*next(iter(MemoryBatches()))))
    assert found[0] == found[1] != found[2]


def test_stochastic_depth_grows_with_depth_and_drops_whole_branches():
    network = Network(ARCHITECTURE, CLASSES, stochastic_depth=0.4)
    assert network.state_dict().keys() == Network(ARCHITECTURE, CLASSES).state_dict().keys()
    (group,) = ARCHITECTURE.groups
    deeper = replace(ARCHITECTURE, groups=(replace(group, repeat=4),))
    blocks = Network(deeper, CLASSES, stochastic_depth=0.4).blocks
    # The first block changes the size and has no residual.
    assert [getattr(b.stochastic_depth, "p", 0) for b in blocks] == pytest.approx(
        [0, 0.2, 0.3, 0.4]
    )
    block = blocks[3]
    assert isinstance(block, MBConv)
    images = torch.randn(400, 8, 4, 4)
    torch.manual_seed(0)
    dropped = (block(images) == images).flatten(1).all(dim=1).float().mean()
    assert dropped == pytest.approx(0.4, abs=0.1)
    assert not (block.eval()(images) == images).flatten(1).all(dim=1).any()


def test_batch_norm_takes_the_recipes_options():
    network = Network(ARCHITECTURE, CLASSES)
    set_batch_norm(network, recipe(batch_norm_momentum=0.02, batch_norm_eps=1e-3))
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) > 3
    assert {(n.momentum, n.eps) for n in norms} == {(0.02, 1e-3)}


def test_weights_trained_with_another_epsilon_fit_a_network_with_the_default():
    trained, images = Network(ARCHITECTURE, CLASSES), torch.randn(64, 3, 8, 8)
    set_batch_norm(trained, recipe(batch_norm_eps=0.05))
    trained.train()(images)
    loaded = Network(ARCHITECTURE, CLASSES)
    loaded.load_state_dict(portable_state(trained))
    torch.testing.assert_close(loaded.eval()(images), trained.eval()(images))
    naive = Network(ARCHITECTURE, CLASSES)
    naive.load_state_dict(trained.state_dict())
    assert (naive.eval()(images) - trained(images)).abs().max() > 1e-3
