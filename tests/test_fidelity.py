"""The table of facts of the paper: it is what the script gives, and its comparisons can fail."""

import pytest
import torch

from benchmarks import fidelity

ROWS = fidelity.read(fidelity.ROOT / "results" / "fidelity.csv")
SAMPLED = ("Cost", "Split-Attention")
NUM_SAMPLES = 60_000


def rows_of(section):
    return [row for row in ROWS if row["section"] == section]


def middle(row):
    return float(row["ours"].split()[0])


def test_the_document_is_rendered_from_the_table():
    document = (fidelity.ROOT / "docs" / "fidelity.md").read_text()
    assert document == fidelity.render(ROWS)


def test_what_differs_from_the_paper_is_known_and_explained():
    facts = [row["fact"] for row in ROWS]
    assert len(facts) == len(set(facts))
    differing = [row["fact"] for row in ROWS if row["verdict"] != "agrees"]
    assert differing == list(fidelity.REMARKS)


@pytest.mark.parametrize("section", [name for name in fidelity.SECTIONS if name not in SAMPLED])
def test_the_code_gives_the_table(section):
    measured = fidelity.measure(section)
    assert len(measured) == len(rows_of(section)) > 0
    for row, committed in zip(measured, rows_of(section), strict=True):
        for column, value in row.items():
            # Differences from 0 are rounding errors, which depend on the processor.
            if committed["paper"] != "0" or column not in ("ours", "deviation"):
                assert committed[column] == value, (row["fact"], column)


@pytest.mark.parametrize("section", SAMPLED)
def test_fewer_samples_give_nearly_the_table(section):
    measured = fidelity.measure(section, NUM_SAMPLES)
    for row, committed in zip(measured, rows_of(section), strict=True):
        assert (row["fact"], row["paper"]) == (committed["fact"], committed["paper"])
        if committed["tolerance"] == "none":
            assert row == {column: committed[column] for column in row}
        elif committed["paper"] == "0":
            assert row["verdict"] == committed["verdict"]
        else:
            assert middle(row) == pytest.approx(middle(committed), rel=0.1), row["fact"]


@pytest.mark.parametrize(
    ("paper", "ours", "tolerance", "verdict"),
    [
        ("34", 34.4, None, "agrees"),
        ("34", 33.5, None, "agrees"),
        ("34", 34.6, None, "differs"),
        ("0.9", 0.96, None, "differs"),
        ("2.6956e24", 2.69562e24, None, "agrees"),
        ("2.6956e24", 2.6957e24, None, "differs"),
        ("0.39", 0.409, fidelity.percent("0.39", 5), "agrees"),
        ("0.39", 0.37, fidelity.percent("0.39", 5), "differs"),
        ("1e36", 1.1e35, fidelity.factor("1e36", 10), "agrees"),
        ("1e36", 1.1e37, fidelity.factor("1e36", 10), "differs"),
        ("1e3", 999, fidelity.at_least("1e3"), "differs"),
        ("0", 1e-4, fidelity.at_most(1e-5), "differs"),
    ],
)
def test_numbers_are_compared_within_their_tolerance(paper, ours, tolerance, verdict):
    assert fidelity.compare("fact", "P", paper, ours, "how", tolerance).verdict == verdict


def test_texts_and_single_architectures_are_compared():
    assert fidelity.match("fact", "P", "a b", "a b", "how").verdict == "agrees"
    assert fidelity.match("fact", "P", "a b", "a c", "how").verdict == "differs"
    many = torch.arange(101.0)
    found = [fidelity.compare_one("fact", paper, many, "how") for paper in ("4", "5", "95", "96")]
    assert [fact.verdict for fact in found] == ["differs", "agrees", "agrees", "differs"]
    assert found[0].ours == "50.0 (5.0 to 95.0)"


def test_printed_figures_fit_together_within_their_rounding():
    def verdict(paper):
        return fidelity.consistent("fact", paper, fidelity.quotient, "2.4", "2.1", how="").verdict

    # 2.35 / 2.15 to 2.45 / 2.05
    assert fidelity.by_rounding(fidelity.quotient, "2.4", "2.1") == pytest.approx(
        (2.4 / 2.1, 2.35 / 2.15, 2.45 / 2.05)
    )
    assert [verdict(paper) for paper in ("1.0", "1.1", "1.2", "1.3")] == [
        *("differs", "agrees", "agrees", "differs")
    ]
    assert fidelity.by_rounding(fidelity.quotient, "4.3 to 4.4", "2")[1:] == (
        4.25 / 2.5,
        4.45 / 1.5,
    )
