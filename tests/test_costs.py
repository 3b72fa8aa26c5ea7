"""The page of costs is what the script makes of the data."""

from __future__ import annotations

import pytest

from benchmarks import costs


def test_the_page_is_what_the_data_say():
    assert costs.page() == costs.PAGE.read_text(encoding="utf-8")


def test_training_of_a_network_by_hand():
    # One epoch of a network of one MAC: every picture once forwards and twice as much backwards.
    assert costs.training_macs(1, 1) == 3 * 1_281_167
    assert costs.training_macs(66e6, 600) == pytest.approx(1.522e17, rel=1e-3)


def test_every_model_of_a_table_is_published():
    rows = [line.split(" | ") for line in costs.published_table()[2:]]
    assert [row[1] for row in rows][4] == "161"  # 6.7 days
    assert len(rows) == len(costs.SEARCH_GPU_DAYS)
