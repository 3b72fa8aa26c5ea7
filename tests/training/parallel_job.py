"""One rank of several training runs, started by ``test_data_parallel.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from fpnas.data.order import training_batch
from fpnas.networks.network import Network
from fpnas.parallel import Ranks, RanksError
from fpnas.training.evaluation import evaluate
from fpnas.training.loop import Trainer, label_loss
from fpnas.training.recipe import Recipe

from .test_training_loop import ARCHITECTURE, CLASSES

BATCH, EPOCH, NUM_VAL = 7, 4, 2
STOP_AT = 5
PLAIN = Recipe(epochs=2, warmup_epochs=0, learning_rate=0.05, max_grad_norm=1.0)


class SharedBatches:
    """A rank's part of batches of seven pictures, each picture made from its number."""

    def __init__(self, ranks, spoilt_at=None):
        self.ranks, self.spoilt_at, self.position = ranks, spoilt_at, 0

    def __iter__(self):
        while True:
            rows = torch.arange(BATCH) + BATCH * self.position
            images, labels = pictures(rows)
            if self.position == self.spoilt_at:
                images[-1] = torch.nan  # which the last rank alone sees
            places = torch.arange(BATCH).numpy()
            options = {"rank": self.ranks.rank, "world_size": self.ranks.size}
            mine = training_batch(places, 0, batch_size=BATCH, **options)
            self.position += 1
            yield images[mine], labels[mine], rows[mine]

    def __len__(self):
        return EPOCH

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def pictures(rows):
    images, labels = [], []
    for row in rows.tolist():
        generator = torch.Generator().manual_seed(row)
        label = int(torch.randint(CLASSES, (1,), generator=generator))
        image = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64) * 0.5
        image[label] += 1
        images.append(image)
        labels.append(label)
    return torch.stack(images), torch.tensor(labels)


class WithoutNorms(nn.Module):
    """What a process sees of a step changes nothing but the order of sums."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Linear(8, CLASSES)

    def forward(self, images):
        return self.second(F.relu(self.first(images)).mean(dim=(2, 3)))


def start(ranks, recipe=PLAIN, norms=False, seed=0, spoilt_at=None):
    torch.manual_seed(seed)
    network = (Network(ARCHITECTURE, CLASSES) if norms else WithoutNorms()).double()
    images, labels = pictures(torch.arange(NUM_VAL) + 1000)
    # Fewer pictures than three ranks: one of them has none.
    share = slice(ranks.rank, None, ranks.size)
    val = [(images[share], labels[share])] if ranks.rank < NUM_VAL else []
    return Trainer(
        network,
        SharedBatches(ranks, spoilt_at),
        recipe,
        label_loss(recipe),
        lambda model: evaluate(model, val, ranks),
        ranks=ranks,
    )


def result(trainer):
    evaluation = trainer.run(lambda _record: None)
    return {
        "weights": dict(trainer.final_network.state_dict()),
        "history": trainer.history,
        "evaluation": [evaluation.top1, evaluation.loss, evaluation.num_images],
        "skipped": trainer.num_skipped,
    }


class Stopped(Exception):
    """After some steps."""


def partial(trainer):
    """The state after a few steps."""

    def stop(_record):
        if trainer.step == STOP_AT:
            raise Stopped

    try:
        trainer.run(stop)
    except Stopped:
        return trainer.state()
    raise AssertionError("it did not stop")


def resumed(ranks, state):
    trainer = start(ranks, seed=9)
    trainer.load_state(state)
    return result(trainer)


def disagreement(ranks):
    """What a rank says whose initial weights are not those of the others."""
    try:
        result(start(ranks, seed=ranks.rank))
    except RanksError as error:
        return str(error)
    return ""


def main():
    folder = Path(sys.argv[1])
    ranks = Ranks.from_environment()
    found = {
        "plain": result(start(ranks)),
        "spoilt": result(start(ranks, spoilt_at=2)),
        "norms": result(start(ranks, norms=True)),
        "dropped": result(start(ranks, Recipe(epochs=2, warmup_epochs=0, mixup=0.5), norms=True)),
        "disagreement": disagreement(ranks),
    }
    earlier = folder / "state.pt"
    if earlier.exists():
        found["resumed"] = resumed(ranks, torch.load(earlier, weights_only=True))
    state = partial(start(ranks))
    if ranks.rank == 0 and not earlier.exists():
        torch.save(state, earlier)
    torch.save(found, folder / f"{ranks.size}-{ranks.rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
