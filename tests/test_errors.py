"""Messages: the field, the value and the fix, and no password."""

import pytest

from fpnas.errors import InputError, closest, first_line


def test_bad_input_is_named_with_its_fix():
    error = InputError("SPACE", "tny", "is unknown", legal="a space", fix="use another")
    assert str(error) == "SPACE=tny is unknown. Legal: a space. Fix: use another."
    error = InputError("SPACE", "tny", "is unknown", fix=closest("tny", ["tiny", "sa_f"]))
    assert str(error) == "SPACE=tny is unknown. Fix: did you mean tiny?"
    assert error.exit_status == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), "OSError"),
        (OSError("\n one \n two"), "one "),
        (OSError("http://me:word@host is away"), "http://(hidden)@host is away"),
        (OSError("x" * 1000), "x" * 300),
    ],
)
def test_the_first_line_of_any_error(error, expected):
    assert first_line(error) == expected
