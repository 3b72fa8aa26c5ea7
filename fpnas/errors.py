"""The errors that end a command, each with its exit status."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar


class FpnasError(Exception):
    """A failure that the command line reports as one message, without a traceback."""

    exit_status: ClassVar[int] = 1


class InputError(FpnasError, ValueError):
    """Input that cannot be used. Raised before any work starts; exit status 2.

    Args:
        field: The name the user knows the input by, such as ``SPACE`` or ``data.path``.
        value: What was given.
        problem: What is wrong with it, as a clause: ``"is not a known space"``.
        legal: The legal range or values, when they can be stated.
        fix: What to do about it.
    """

    exit_status = 2

    def __init__(self, field: str, value: Any, problem: str, *, legal: str = "", fix: str) -> None:
        self.field, self.value, self.problem, self.legal, self.fix = (
            field,
            value,
            problem,
            legal,
            fix,
        )
        message = f"{field}={value} {problem}."
        if legal:
            message += f" Legal: {legal}."
        super().__init__(f"{message} Fix: {fix}" if fix.endswith("?") else f"{message} Fix: {fix}.")


class DivergedError(FpnasError):
    """A loss or a weight became NaN or infinite. The last good checkpoint is kept."""


class StoppedError(FpnasError):
    """Stopped by a signal after writing a checkpoint; the same command resumes. Status 75."""

    exit_status = 75


class ServiceDownError(FpnasError):
    """A service did not answer in time. What was made before is kept; trying again goes on."""


def first_line(error: BaseException, length: int = 300) -> str:
    """The first line of an error's message, of so many letters; its type where it has none.

    The password of an address in it is hidden.
    """
    text = str(error).strip() or type(error).__name__
    return without_password(text.splitlines()[0])[:length]


def without_password(text: str) -> str:
    """Hides names and passwords in addresses."""
    return re.sub(r"//[^/@]*@", "//(hidden)@", text)


def closest(value: str, known: Iterable[str]) -> str:
    """Returns a hint that names the known values closest to ``value``, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}"


def run_command(command: Callable[[], object], prefix: str = "") -> None:
    """Runs a command of a process; an error is one message on stderr and its exit status.

    Args:
        command: The command.
        prefix: Goes before the message.

    Raises:
        SystemExit: With the status of the error.
    """
    try:
        command()
    except FpnasError as error:
        sys.stderr.write(f"{prefix}{error}\n")
        raise SystemExit(error.exit_status) from error
