"""What a version says of itself, and which one is the champion."""

import pytest

from fpnas.stages.registering import description, verdict

TAGS = {
    "top1": "0.9",
    "top5": "0.99",
    "calibration_error": "0.02",
    "macs": "100",
    "num_val_images": "1000",
    "dataset_digest": "digits",
    "model_digest": "new",
    "space": "tiny",
    "run": "tiny-t0-1",
    "latency_ms": "0.512",
    "search_seconds": "36.1",
}
SUMMARY = {
    "architecture": {"string": "c16s2-c32@16", "macs": 1.6e6, "target_macs": 6e6, "params": 7181},
    "search": {"strategy": "fpnas", "num_samples": 200},
}


@pytest.mark.parametrize(
    ("champion", "promoted", "reason"),
    [
        (None, True, "no champion yet"),
        ({**TAGS, "model_digest": "old", "top1": "0.5"}, True, "is more than the noise"),
        ({**TAGS, "model_digest": "old", "top1": "0.895"}, False, "is not more than the noise"),
        ({**TAGS, "model_digest": "old", "top1": "0.5", "macs": "99"}, False, "costs 100 MACs"),
        ({**TAGS, "model_digest": "old", "dataset_digest": "b"}, False, "other pictures"),
        # The same model again, after a try that failed half-way, keeps its place.
        ({"model_digest": "new"}, True, "the champion already"),
        ({"owner": "somebody"}, False, "made elsewhere"),
    ],
)
def test_the_champion(champion, promoted, reason):
    found, why = verdict(TAGS, champion)
    assert found is promoted
    assert reason in why


def test_a_description():
    text = description("fp-nas-t0", SUMMARY, TAGS)
    assert "| top-1, top-5 | 90.0 %, 99.0 % of 1000 validation pictures |" in text
    assert "| MACs | 1.6 M of 6.0 M |" in text
    assert "| search | fpnas, 200 architectures in 36 s |" in text
    assert 'load_model("models:/fp-nas-t0@challenger")' in text
    assert "search |" not in description("m", {**SUMMARY, "search": None}, TAGS)
