"""Exported files compute what the network computes, know their classes, and are whole or absent."""

import json
import subprocess
import sys
from copy import deepcopy
from functools import cache

import onnx
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fpnas.architecture import architecture_at
from fpnas.errors import InputError
from fpnas.networks.network import Classifier, Network
from fpnas.space import load_space
from fpnas.training import export
from fpnas.training.export import (
    FILES,
    OPSETS,
    ExportError,
    export_classifier,
    opset_of,
)
from fpnas.training.inference import CARD_KEY, ModelCard, load, read_pictures, runner, top_classes
from fpnas.training.int8 import Int8Recipe, write_int8

SIZE = 16
# Both activations, both kernels, squeeze-and-excitation and Split-Attention.
CHOICES = [[0, 0, 1, 0, 1], [1, 1, 2, 1, 2], [0, 0, 0, 0, 0], [0, 0, 1, 1, 3], [0, 1, 1, 1, 0]]
ARCHITECTURE = architecture_at(load_space("tiny").open(input_size=SIZE), CHOICES)
CARD = ModelCard(("cat", "dog", "café"), SIZE, 0.875, str(ARCHITECTURE))


def batches(number=3, size=32, seed=1):
    """Pictures of three classes that differ in their colour."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        labels = torch.randint(3, (size,), generator=generator)
        images = 0.8 * torch.rand(size, 3, SIZE, SIZE, generator=generator)
        images[torch.arange(size), labels] += 0.2
        yield images, labels


@cache
def trained():
    torch.manual_seed(0)
    model = Classifier(Network(ARCHITECTURE, len(CARD.classes)), [0.5] * 3, [0.25] * 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for images, labels in batches(30, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def classifier():
    return deepcopy(trained())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    calibration = (images for images, _ in batches(2))
    return folder, export_classifier(
        classifier(), folder / "new", CARD, checked=batches(), calibration=calibration
    )


def test_every_file_agrees_with_the_network(exported):
    folder, found = exported
    assert [record.name for record in found] == ["network", *FILES]
    assert {path.name for path in (folder / "new").iterdir()} == set(FILES)
    for record in found[:-1]:
        assert record.max_difference < 1e-4
        assert record.agreement == 1
        assert record.top1 == found[0].top1
    assert found[0].top1 > 0.9
    assert found[-1].agreement > 0.9
    assert found[-1].max_difference > 0  # it is another arithmetic
    assert all(record.num_images == 96 for record in found)
    sizes = [(folder / "new" / name).stat().st_size for name in FILES]
    assert [record.size_bytes for record in found] == [0, *sizes]
    assert sizes[-1] < 0.8 * sizes[-2]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_knows_its_classes_and_takes_any_batch(exported, name, batch):
    path = exported[0] / "new" / name
    run, card = load(path)
    assert card == CARD
    images = torch.rand(batch, 3, SIZE, SIZE)
    assert run(images).shape == (batch, 3)


def test_three_lines_with_torch_alone(exported, tmp_path):
    path = exported[0] / "new" / "model.pt2"
    code = f"""
import torch
model = torch.export.load({str(path)!r}).module()
logits = model(torch.ones(2, 3, {SIZE}, {SIZE}))
import json, sys
assert not any(name.startswith("fpnas") for name in sys.modules)
print(json.dumps(logits.tolist()))
"""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    expected = classifier().eval()(torch.ones(2, 3, SIZE, SIZE))
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-4)


def test_pictures_from_files(exported, tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 20), (255, 0, 0)).save(path)
    images = read_pictures([path, path], CARD)
    assert images.shape == (2, 3, SIZE, SIZE)
    assert images[:, 0].eq(1).all()
    assert images[:, 1:].eq(0).all()
    found = top_classes(runner(exported[0] / "new" / "model.onnx"), CARD, images, 5)
    assert found[0] == found[1]
    assert {name for name, _ in found[0]} == set(CARD.classes)
    assert sum(probability for _, probability in found[0]) == pytest.approx(1, abs=1e-5)
    assert found[0] == sorted(found[0], key=lambda pair: -pair[1])


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    write = export.write_onnx

    def wrong(exported, path, card, opset):
        other = classifier()
        other.network.classifier.bias.data += 1e-3
        write(export.export_program(other.eval(), SIZE), path, card)

    monkeypatch.setattr(export, "write_onnx", wrong)
    calibration = (images for images, _ in batches(1))
    with pytest.raises(ExportError, match=r"model\.onnx differs"):
        export_classifier(
            classifier(), tmp_path / "new", CARD, checked=batches(1), calibration=calibration
        )
    assert not (tmp_path / "new").exists()


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    broken = classifier()
    broken.network.classifier.bias.data[0] = torch.nan
    with pytest.raises(ExportError, match=r"not finite: network\.classifier\.bias"):
        export_classifier(broken, tmp_path / "new", CARD, checked=batches(1), calibration=iter([]))
    assert not (tmp_path / "new").exists()


def test_logits_that_are_not_finite_are_not_written(tmp_path, monkeypatch):
    def without_numbers(images):
        return torch.full((len(images), len(CARD.classes)), torch.nan)

    run = export.runner
    monkeypatch.setattr(
        export, "runner", lambda path: without_numbers if "int8" in path.name else run(path)
    )
    calibration = (images for images, _ in batches(1))
    with pytest.raises(ExportError, match=r"model\.int8\.onnx gives logits that are not finite"):
        export_classifier(
            classifier(), tmp_path / "new", CARD, checked=batches(1), calibration=calibration
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "{", "{}", '{"classes": ["a"], "input_size": 8, "new": 1}'])
def test_a_card_that_is_not_ours_is_refused(exported, tmp_path, text):
    model = onnx.load(exported[0] / "new" / "model.onnx")
    for entry in model.metadata_props:
        entry.value = text if entry.key == CARD_KEY else entry.value
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"--model=.*model\.onnx is not a classifier"):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".safetensors"])
def test_a_foreign_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="is not a classifier"):
        load(path)


def test_a_picture_that_is_none_is_refused(tmp_path):
    path = tmp_path / "words.jpg"
    path.write_text("words")
    for wrong in (path, tmp_path / "missing.png"):
        with pytest.raises(InputError, match=wrong.name):
            read_pictures([wrong], CARD)


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_an_opset_is_what_was_asked_for(tmp_path, opset):
    calibration = (images for images, _ in batches(1))
    found = export_classifier(
        classifier(), tmp_path, CARD, checked=batches(1), calibration=calibration, opset=opset
    )
    assert opset_of(tmp_path / "model.onnx") == opset
    assert found[-2].agreement == 1


@pytest.mark.parametrize("opset", [7, 17, 99])
def test_an_opset_that_is_not_written_is_refused_before_any_work(tmp_path, opset):
    with pytest.raises(InputError, match=rf"--opset={opset} is not written.* 18 to "):
        export_classifier(
            classifier(), tmp_path / "new", CARD, checked=[], calibration=[], opset=opset
        )
    assert not (tmp_path / "new").exists()


def test_an_exporter_that_writes_another_opset_is_caught(tmp_path, monkeypatch):
    exported = export.export_program(classifier(), SIZE)
    with pytest.raises(ExportError, match=r"wrote the opset \[18\], not 17"):
        export.write_onnx(exported, tmp_path / "model.onnx", CARD, 17)
    assert not (tmp_path / "model.onnx").exists()


def test_layers_that_stay_in_float(exported, tmp_path):
    """A layer is quantized when its weights have a scale of their own."""
    source = exported[0] / "new" / "model.onnx"

    def num_quantized(**options):
        calibration = (images for images, _ in batches(1))
        path = tmp_path / "int8.onnx"
        write_int8(source, path, calibration, Int8Recipe(only_weighted=True, **options))
        kept = {node.output[0]: node for node in onnx.load(path).graph.node}
        weighted = [n for n in kept.values() if n.op_type in ("Conv", "Gemm", "MatMul")]
        return sum(
            kept[n.input[1]].op_type == "DequantizeLinear" if n.input[1] in kept else 0
            for n in weighted
        ), len(weighted)

    every, total = num_quantized()
    assert every == total
    assert num_quantized(floats=("first",)) == (total - 1, total)
    assert num_quantized(floats=("first", "last")) == (total - 2, total)
    without_gates, _ = num_quantized(floats=("gates",))
    assert 0 < without_gates < total - 1
