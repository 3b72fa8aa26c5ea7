"""Pictures in memory for tests of searches."""

import torch


class MemoryBatches:
    """Endless random batches, each made from its number; or always the first."""

    def __init__(
        self, seed, scale=1.0, *, classes=3, batch=4, size=8, dtype=torch.float32, fixed=False
    ):
        self.seed, self.scale, self.fixed, self.position = seed, scale, fixed, 0
        self.classes, self.shape, self.dtype = classes, (batch, 3, size, size), dtype

    def batch(self, position):
        generator = torch.Generator().manual_seed(1000 * self.seed + position)
        labels = torch.randint(self.classes, self.shape[:1], generator=generator)
        images = torch.randn(self.shape, generator=generator, dtype=self.dtype) * self.scale
        return images + labels.view(-1, 1, 1, 1), labels

    def __iter__(self):
        while True:
            self.position += 1
            yield self.batch(0 if self.fixed else self.position - 1)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]
