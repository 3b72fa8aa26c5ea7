"""What can go wrong between a run and its object storage."""

from __future__ import annotations

from fpnas.errors import FpnasError


class StorageError(FpnasError):
    """The storage failed in the middle of the work. What was committed before stays good."""


class ObjectMissingError(StorageError):
    """An object that was asked for by name is not there."""


class ArtifactCorruptError(FpnasError):
    """An object does not hold what its manifest says.

    Args:
        uri: The object at fault.
        problem: What is wrong with it, as a clause.
        fix: What to do about it.
    """

    def __init__(self, uri: str, problem: str, *, fix: str) -> None:
        self.uri, self.problem, self.fix = uri, problem, fix
        super().__init__(f"{uri} {problem}. Fix: {fix}.")
