"""The training loop: optimiser, moving average, records, resumption, divergence."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpnas.architecture import Architecture, GroupSpec
from fpnas.errors import DivergedError
from fpnas.networks.network import Network
from fpnas.state import pack, unpack
from fpnas.training.evaluation import Evaluation, evaluate
from fpnas.training.loop import TRAINING_COLUMNS, Trainer, label_loss
from fpnas.training.optimization import build_optimizer
from fpnas.training.recipe import Recipe

CLASSES, BATCH, EPOCH = 3, 6, 4
ARCHITECTURE = Architecture(
    "hand", "only", 8, 8, 1, (GroupSpec(2.0, 8, 3, "relu", 1, repeat=1, stride=2),), 16
)
LINEAR = Recipe(
    epochs=2,
    optimizer="sgd",
    learning_rate=0.1,
    warmup_epochs=0,
    momentum=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    ema_decay=0.0,
    max_grad_norm=1e9,
)


class MemoryBatches:
    """Endless batches of separable pictures, each made from its number."""

    def __init__(self, spoilt_at=()):
        self.position, self.spoilt_at = 0, spoilt_at

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.position)
            labels = torch.randint(CLASSES, (BATCH,), generator=generator)
            images = torch.randn(BATCH, 3, 8, 8, generator=generator) * 0.5
            images[torch.arange(BATCH), labels] += 1
            if self.position in self.spoilt_at:
                images[0] = torch.nan
            self.position += 1
            yield images, labels, torch.arange(BATCH)

    def __len__(self):
        return EPOCH

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Flat(nn.Module):
    """A linear classifier of the mean colour: small enough to follow by hand."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, CLASSES)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images):
        return self.linear(images.mean(dim=(2, 3)))


def validation():
    return [batch[:2] for batch, _ in zip(iter(MemoryBatches()), range(2), strict=False)]


def make_trainer(recipe, network=None, batches=None, loss=None, seed=0):
    torch.manual_seed(seed)
    network = network or Network(ARCHITECTURE, CLASSES)
    pictures = validation()
    return Trainer(
        network,
        batches or MemoryBatches(),
        recipe,
        loss or label_loss(recipe),
        lambda model: evaluate(model, pictures),
    )


def test_norms_and_biases_are_not_decayed():
    network = Network(ARCHITECTURE, CLASSES)
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    for name, kind in kinds.items():
        optimizer = build_optimizer(network, Recipe(epochs=2, optimizer=name, weight_decay=0.03))
        assert type(optimizer) is kind
        decay = {
            id(parameter): group["weight_decay"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert decay.pop(id(layer.weight)) == 0.03
                if layer.bias is not None:
                    assert decay.pop(id(layer.bias)) == 0
            elif isinstance(layer, nn.BatchNorm2d):
                assert decay.pop(id(layer.weight)) == decay.pop(id(layer.bias)) == 0
        assert decay == {}


def test_momentum_is_nesterovs_and_may_be_zero():
    network = Flat()
    assert build_optimizer(network, Recipe(epochs=2)).defaults["nesterov"]
    assert not build_optimizer(network, Recipe(epochs=2, momentum=0)).defaults["nesterov"]


def test_label_smoothing():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 1.0]])
    labels = torch.tensor([0, 1])
    target = torch.full((2, 3), 0.1 / 3)
    target[[0, 1], [0, 1]] += 0.9
    by_hand = -(target * logits.log_softmax(1)).sum(1).mean()
    loss = label_loss(Recipe(epochs=2, label_smoothing=0.1))
    torch.testing.assert_close(loss(logits, labels, torch.arange(2)), by_hand)


def test_steps_by_hand():
    trainer = make_trainer(LINEAR, Flat())
    twin, rates = Flat(), []
    batches = iter(MemoryBatches())

    def check(_record):
        images, labels, _ = next(batches)
        rate = LINEAR.learning_rate_at(trainer.step / EPOCH)
        rates.append(rate)
        grads = torch.autograd.grad(
            F.cross_entropy(twin(images), labels), [twin.linear.weight, twin.linear.bias]
        )
        with torch.no_grad():
            twin.linear.weight -= rate * grads[0]
            twin.linear.bias -= rate * grads[1]
        torch.testing.assert_close(trainer.network.linear.weight, twin.linear.weight)
        torch.testing.assert_close(trainer.network.linear.bias, twin.linear.bias)

    trainer.run(check)
    assert len(rates) == trainer.num_steps == 8
    assert rates == sorted(rates, reverse=True)
    assert trainer.final_network is trainer.network


def test_the_moving_average_starts_fast():
    recipe = Recipe(epochs=3, warmup_epochs=0, ema_decay=0.3, learning_rate=0.3)
    trainer = make_trainer(recipe, Flat())
    average = None

    def check(_record):
        nonlocal average
        weight = trainer.network.linear.weight.detach().clone()
        if average is None:
            average = weight  # the first step replaces the initial weights
        else:
            count = trainer.step - 1
            decay = min(0.3, (1 + count) / (10 + count))
            average = decay * average + (1 - decay) * weight
        torch.testing.assert_close(trainer.final_network.linear.weight.detach(), average)

    trainer.run(check)
    assert trainer.step == 12
    assert not torch.equal(trainer.final_network.linear.weight, trainer.network.linear.weight)


def test_the_moving_average_includes_the_statistics():
    recipe = Recipe(epochs=1, warmup_epochs=0, ema_decay=0.5)
    trainer = make_trainer(recipe)
    seen = []
    trainer.run(lambda _record: seen.append(trainer.network.stem[1].running_mean.clone()))
    average = seen[0]
    for count, mean in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * mean
    torch.testing.assert_close(trainer.final_network.stem[1].running_mean, average)


def test_records_of_epochs():
    recipe = Recipe(epochs=3, warmup_epochs=1, learning_rate=0.2, ema_decay=0.0)
    trainer = make_trainer(recipe)
    records = []
    result = trainer.run(records.append)
    assert [record is not None for record in records] == ([False] * (EPOCH - 1) + [True]) * 3
    ends = [record for record in records if record is not None]
    assert [list(record) for record in ends] == [list(TRAINING_COLUMNS)] * 3
    assert [record["epoch"] for record in ends] == [1, 2, 3]
    assert [record["learning_rate"] for record in ends] == pytest.approx([0.2, 0.1, 0])
    assert trainer.history == [list(record.values()) for record in ends]
    assert ends[-1]["train_loss"] < ends[0]["train_loss"]
    assert result == trainer.evaluate(trainer.network)
    assert (ends[-1]["top1"], ends[-1]["val_loss"]) == (result.top1, result.loss)
    assert trainer.network.training


def test_the_training_loss_is_the_mean_of_its_epoch():
    losses = []

    def loss(logits, labels, _rows):
        value = F.cross_entropy(logits, labels)
        losses.append(value.item())
        return value

    trainer = make_trainer(LINEAR, Flat(), loss=loss)
    trainer.run(lambda _record: None)
    column = [row[TRAINING_COLUMNS.index("train_loss")] for row in trainer.history]
    assert column == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("stop_at", [3, EPOCH])
def test_a_run_that_stopped_goes_on_bit_for_bit(optimizer, stop_at):
    recipe = Recipe(epochs=2, optimizer=optimizer, learning_rate=0.05, ema_decay=0.9)
    whole = make_trainer(recipe)
    expected = whole.run(lambda _record: None)

    class Stop(Exception):
        pass

    stopped = make_trainer(recipe)

    def stop(_record):
        if stopped.step == stop_at:
            raise Stop

    with pytest.raises(Stop):
        stopped.run(stop)
    tensors, structure = pack(stopped.state())
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    resumed = make_trainer(recipe, seed=5)
    resumed.load_state(unpack(tensors, json.loads(json.dumps(structure))))
    assert resumed.run(lambda _record: None) == expected
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.network, whole.network), (resumed.average, whole.average)):
        mine, others = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(mine[name], others[name]) for name in others)


def test_a_run_with_dropout_goes_on_bit_for_bit():
    recipe = Recipe(epochs=2, learning_rate=0.05, dropout=0.5)

    def trainer(seed):
        torch.manual_seed(seed)
        return make_trainer(recipe, Network(ARCHITECTURE, CLASSES, dropout=0.5), seed=seed)

    class Stop(Exception):
        pass

    whole, stopped, resumed = trainer(0), trainer(0), trainer(1)
    stopped.network.load_state_dict(whole.network.state_dict())
    torch.manual_seed(7)
    whole.run(lambda _record: None)

    def stop(_record):
        if stopped.step == 3:
            raise Stop

    torch.manual_seed(7)
    with pytest.raises(Stop):
        stopped.run(stop)
    saved = pack(stopped.state())
    torch.manual_seed(8)  # another process
    resumed.load_state(unpack(*saved))
    resumed.run(lambda _record: None)
    mine, others = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(mine[name], others[name]) for name in others)


def test_a_finished_run_is_evaluated_again_without_training():
    recipe = Recipe(epochs=2)
    done = make_trainer(recipe)
    expected = done.run(lambda _record: None)
    again = make_trainer(recipe, seed=3)
    again.load_state(unpack(*pack(done.state())))
    assert again.run(lambda _record: pytest.fail("a step was made")) == expected


def test_a_loss_that_is_not_a_number_diverges_and_keeps_the_weights():
    recipe = Recipe(epochs=2, ema_decay=0.0, max_skipped_steps=0)
    trainer = make_trainer(recipe, batches=MemoryBatches(spoilt_at={2}))
    weights = []
    with pytest.raises(
        DivergedError,
        match=r"at step 2, after 0 skipped steps in a row; lower recipe\.learning_rate",
    ):
        trainer.run(
            lambda _record: weights.append([p.clone() for p in trainer.network.parameters()])
        )
    assert trainer.step == len(weights) == 2
    assert all(map(torch.equal, trainer.network.parameters(), weights[-1]))


def state_of(trainer):
    return [value.clone() for value in trainer.network.state_dict().values()]


def test_a_spoilt_step_is_passed_over_as_if_it_had_not_been():
    recipe = Recipe(epochs=2, ema_decay=0.9, max_skipped_steps=1)
    trainer = make_trainer(recipe, batches=MemoryBatches(spoilt_at={1, 5}))
    states, averages = [], []

    def keep(_record):
        states.append(state_of(trainer))
        averages.append([v.clone() for v in trainer.average.state_dict().values()])

    trainer.run(keep)
    for step in (1, 5):
        # The running statistics too, which the spoilt pictures have gone through.
        assert all(map(torch.equal, states[step], states[step - 1]))
        assert all(map(torch.equal, averages[step], averages[step - 1]))
        assert not all(map(torch.equal, states[step + 1], states[step]))
    assert trainer.num_skipped == 2
    skipped = [row[TRAINING_COLUMNS.index("skipped_steps")] for row in trainer.history]
    losses = [row[TRAINING_COLUMNS.index("train_loss")] for row in trainer.history]
    assert skipped == [1, 1]
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(("limit", "spoilt", "end"), [(2, {2, 3, 4}, 4), (2, {1, 2, 4, 5}, 8)])
def test_only_so_many_spoilt_steps_in_a_row_are_borne(limit, spoilt, end):
    recipe = Recipe(epochs=2, max_skipped_steps=limit)
    trainer = make_trainer(recipe, batches=MemoryBatches(spoilt_at=spoilt))
    good = state_of(trainer)

    def keep(_record):
        nonlocal good
        good = state_of(trainer)

    if end < trainer.num_steps:
        with pytest.raises(DivergedError, match="after 2 skipped steps in a row"):
            trainer.run(keep)
    else:
        trainer.run(keep)
    assert trainer.step == end
    assert all(map(torch.equal, state_of(trainer), good))
    assert all(value.isfinite().all() for value in good)


def test_an_epoch_without_a_step_has_no_loss():
    trainer = make_trainer(Recipe(epochs=2), batches=MemoryBatches(spoilt_at={0, 1, 2, 3}))
    trainer.run(lambda _record: None)
    losses = [row[TRAINING_COLUMNS.index("train_loss")] for row in trainer.history]
    assert math.isnan(losses[0])
    assert losses[1] > 0


def test_the_gradient_is_scaled_down():
    recipe = Recipe(
        epochs=1, warmup_epochs=0, momentum=0.0, weight_decay=0.0, max_grad_norm=1e-3, ema_decay=0.0
    )
    trainer = make_trainer(recipe, Flat())
    moved = []

    def check(_record):
        linear = trainer.network.linear
        moved.append(torch.cat([linear.weight.detach().flatten(), linear.bias.detach()]).norm())

    trainer.run(check)
    rate = recipe.learning_rate_at(1 / EPOCH)
    assert moved[0].item() == pytest.approx(rate * 1e-3, rel=1e-3)


def test_rows_reach_the_loss():
    seen = []

    def loss(logits, labels, rows):
        seen.append(rows.tolist())
        return F.cross_entropy(logits, labels)

    make_trainer(LINEAR, Flat(), loss=loss).run(lambda _record: None)
    assert seen == [list(range(BATCH))] * 8


def test_the_averaged_network_is_what_is_evaluated():
    recipe = Recipe(epochs=1, warmup_epochs=0, ema_decay=0.9)
    trainer = make_trainer(recipe, Flat())
    seen = []

    def record(network):
        seen.append(network)
        return Evaluation(0.5, 0.5, 1.0, 4)

    trainer.evaluate = record
    trainer.run(lambda _record: None)
    assert seen == [trainer.average.module] * 2
