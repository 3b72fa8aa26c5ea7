import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from fpnas.architecture import architecture_at
from fpnas.cost import architecture_cost
from fpnas.report.figures import (
    PUBLISHED,
    ModelPoint,
    SearchPhase,
    accuracy_cost,
    architecture_picture,
    choice_heat_map,
    join_phases,
    search_curves,
    snapshot_steps,
    to_png_bytes,
    to_svg,
    training_curves,
)
from fpnas.report.layers import layers
from fpnas.search.loop import HISTORY_COLUMNS
from fpnas.space import KERNEL, load_space


def history(num_steps: int) -> pd.DataFrame:
    steps = np.arange(1, num_steps + 1)
    columns = {name: np.linspace(2.0, 1.0, num_steps) for name in HISTORY_COLUMNS}
    return pd.DataFrame(columns | {"step": steps, "num_samples": np.maximum(7 - steps // 10, 2)})


def phases() -> list[SearchPhase]:
    return [SearchPhase("coarse", history(40)), SearchPhase("fine", history(20))]


def uniform(space, num_snapshots):
    width = max(len(c) for g in space.groups for c in g.choices)
    result = np.zeros((num_snapshots, space.num_groups, 5, width))
    for index, group in enumerate(space.groups):
        for variable, choice in enumerate(group.choices):
            result[:, index, variable, : len(choice)] = 1 / len(choice)
    return result


def training_history(num_epochs=8):
    epochs = np.arange(1, num_epochs + 1)
    top1 = np.where(epochs % 2 == 0, epochs / 10, np.nan)
    return pd.DataFrame(
        {
            "epoch": epochs,
            "learning_rate": 0.1,
            "train_loss": 2 / epochs,
            "val_loss": 2.5 / epochs,
            "top1": top1,
            "top5": top1,
        }
    )


def first_architecture(space, kernel=1, splits=0):
    """The first choice of everything, but this kernel and number of splits."""
    choices = [[0, 0, kernel, 0, splits] for _ in space.groups]
    return architecture_at(space, choices)


def panel(figure: Figure, title: str):
    return next(axis for axis in figure.axes if axis.get_title("left") == title)


def legend_texts(axis_or_figure) -> list[str]:
    legends = getattr(axis_or_figure, "legends", None) or [axis_or_figure.get_legend()]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def switches(axis):
    return [line for line in axis.get_lines() if line.get_label() == "_switch"]


def test_phases_are_joined_on_one_axis():
    joined, ends = join_phases(phases())
    assert joined["step"].tolist() == list(range(1, 61))
    assert ends == [40]
    assert join_phases([])[1] == []


def test_search_phase_names_missing_columns():
    with pytest.raises(ValueError, match="skip_rate"):
        SearchPhase("fine", history(3).drop(columns="skip_rate"))


def test_search_curves_show_everything_and_the_switch():
    figure = search_curves(phases(), target_macs=58_000_000)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == [
        "Entropy of the distribution",
        "Samples in a step",
        "Cost",
        "Samples so far",
        "Rates",
        "Loss of the supernet",
    ]
    assert "target 58.0 M" in legend_texts(panel(figure, "Cost"))
    assert all(axis.get_ylabel() for axis in figure.axes)
    assert all([line.get_xdata()[0] for line in switches(axis)] == [40] for axis in figure.axes)
    drawn = panel(figure, "Samples so far").get_lines()[1].get_ydata()
    assert drawn[-1] == sum(int(p.history["num_samples"].sum()) for p in phases())


def test_search_curves_of_one_phase_have_no_switch():
    figure = search_curves([SearchPhase("coarse", history(5))], 1_000_000)
    assert not any(switches(axis) for axis in figure.axes)


def test_search_curves_need_a_step():
    with pytest.raises(ValueError, match="no steps"):
        search_curves([SearchPhase("coarse", history(0))], 1)


@pytest.mark.parametrize(("name", "model"), [("tiny", "t0"), ("sa_expanded", "l1")])
def test_heat_map_has_a_panel_for_each_open_choice(name, model):
    space = load_space(name).open(model)
    figure = choice_heat_map(space, np.array([0, 10, 20, 20, 30]), uniform(space, 5), 20)
    panels = [axis for axis in figure.axes if axis.get_label().startswith("group")]
    assert len(panels) == sum(len(c) > 1 for g in space.groups for c in g.choices)
    for axis in panels:
        labels = [label.get_text() for label in axis.get_yticklabels()]
        assert 2 <= len(labels) <= 6
        rows = axis.collections[0].get_array().shape[0]
        assert (axis.get_yticks()[0], axis.get_yticks()[-1]) == (0, rows - 1)
        assert axis.collections[0].get_array().shape[1] == 4  # the doubled step counts once


def test_heat_map_draws_the_later_of_two_equal_steps():
    space = load_space("tiny").open()
    snapshots = uniform(space, 3)
    snapshots[2, 0, KERNEL, :3] = [0.0, 0.0, 1.0]
    figure = choice_heat_map(space, np.array([0, 7, 7]), snapshots, 7)
    axis = next(axis for axis in figure.axes if axis.get_label() == "group 1 kernel")
    assert axis.collections[0].get_array()[:, -1].tolist() == [0.0, 0.0, 1.0]


def test_heat_map_marks_the_decoded_value():
    space = load_space("tiny").open()
    architecture = first_architecture(space, kernel=2, splits=3)
    figure = choice_heat_map(space, np.array([0]), uniform(space, 1), None, architecture)
    axis = next(axis for axis in figure.axes if axis.get_label() == "group 2 splits")
    marks = [line for line in axis.get_lines() if line.get_label() == "decoded"]
    assert [line.get_ydata()[0] for line in marks] == [3]
    assert any("triangle" in text.get_text() for text in figure.texts)


def test_heat_map_refuses_shapes_that_do_not_fit():
    space = load_space("tiny").open()
    with pytest.raises(ValueError, match="snapshots has shape"):
        choice_heat_map(space, np.array([0, 1]), uniform(space, 3), None)


def test_snapshot_steps_end_at_the_last_step():
    assert snapshot_steps(4, 10, 25).tolist() == [0, 10, 20, 25]


@pytest.mark.parametrize(
    ("name", "model", "num_blocks"),
    [("tiny", "t0", 7), ("fbnetv2_f_fine", "s1", 17), ("sa_expanded", "l0", 27)],
)
def test_layers_add_up_to_the_architecture(name, model, num_blocks):
    space = load_space(name).open(model)
    architecture = first_architecture(space)
    found = layers(architecture, num_classes=25)
    assert len(found) == num_blocks + 2
    assert sum(layer.macs for layer in found) == architecture_cost(architecture, 25)[0]
    assert all(layer.macs >= 0 for layer in found)
    assert found[0].in_pixels == space.input_size
    assert found[-1].in_pixels == -(-space.input_size // space.total_stride)


def gids(figure, kind):
    return [p.get_gid() for p in figure.axes[0].patches if isinstance(p, kind) and p.get_gid()]


@pytest.mark.parametrize(("splits", "bands"), [(0, 1), (1, 1), (2, 2), (3, 4)])
def test_picture_has_a_stripe_for_each_split(splits, bands):
    space = load_space("tiny").open()
    architecture = first_architecture(space, splits=splits)
    found = gids(architecture_picture(architecture, 10), Polygon)
    stem_and_head = 2
    assert sum("-band-" in gid for gid in found) == bands * space.num_blocks + stem_and_head
    attention = sum(gid.endswith("-attention") for gid in found)
    assert attention == (space.num_blocks if architecture.groups[0].splits else 0)


def test_picture_of_bypassed_blocks_is_hollow():
    space = load_space("tiny").open()
    figure = architecture_picture(first_architecture(space, kernel=0), 10)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum(text.startswith("bypassed") for text in texts) == space.num_blocks
    dashed = [p for p in figure.axes[0].patches if p.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == space.num_blocks


@pytest.mark.parametrize(
    ("name", "model"), [("tiny", "t0"), ("fbnetv2_f_fine", "s1"), ("sa_expanded", "l1")]
)
def test_picture_stays_on_the_page(name, model):
    space = load_space(name).open(model)
    figure = architecture_picture(first_architecture(space, splits=1), 10)
    figure.draw_without_rendering()
    page = figure.bbox
    for text in [*figure.axes[0].texts, *figure.texts, *figure.legends]:
        box = text.get_window_extent()
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    assert len(gids(figure, Rectangle)) == space.num_blocks + 2
    assert "bypassed block" in legend_texts(figure)


def test_picture_shows_strange_names_as_they_are():
    architecture = dataclasses.replace(first_architecture(load_space("tiny").open()), space="$a_{$")
    assert to_svg(architecture_picture(architecture, 10))


def test_training_curves_have_a_line_for_each_run():
    figure = training_curves({"train": training_history(), "distill": training_history()})
    assert [axis.get_title("left") for axis in figure.axes] == [
        "Loss",
        "Accuracy on the validation split",
        "Learning rate",
    ]
    accuracy = figure.axes[1]
    assert "distill, top-1" in legend_texts(accuracy)
    line = next(item for item in accuracy.get_lines() if item.get_label() == "train, top-1")
    assert line.get_xdata().tolist() == [2, 4, 6, 8]  # epochs without a measurement are left out
    assert line.get_ydata().tolist() == pytest.approx([20, 40, 60, 80])


def test_training_curves_with_nothing_measured_warn_of_nothing():
    unmeasured = training_history().assign(top1=np.nan, top5=np.nan, val_loss=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = training_curves({"train": unmeasured})
    assert [text.get_text() for text in figure.axes[1].texts] == ["not measured"]


def test_training_curves_refuse_nothing_and_missing_columns():
    with pytest.raises(ValueError, match="empty"):
        training_curves({})
    with pytest.raises(ValueError, match="top5"):
        training_curves({"train": training_history().drop(columns="top5")})


def test_published_points_are_drawn_only_when_asked_for():
    ours = {"digits": [ModelPoint("mine", 60e6, 0.68)], "photographs": [ModelPoint("b", 9e6, 0.5)]}
    alone = accuracy_cost(ours, published=False)
    beside = accuracy_cost(ours, published=True)
    assert legend_texts(alone.axes[0]) == ["digits", "photographs"]
    assert legend_texts(beside.axes[0]) == ["digits", "photographs", "published, ImageNet"]
    names = [text.get_text() for text in beside.axes[0].texts]
    assert {"mine", "b"} < set(names) <= {"mine", "b", *(point.name for point in PUBLISHED)}
    near = accuracy_cost({"ImageNet": [ModelPoint("mine", 60e6, 0.68)]}, published=True)
    assert len(near.axes[0].texts) == 1 + len(PUBLISHED)


def test_what_distillation_gave_is_drawn_in_outline():
    models = [ModelPoint("a", 60e6, 0.5, 0.6), ModelPoint("b", 30e6, 0.55)]
    axis = accuracy_cost({"digits": models}, published=False).axes[0]
    assert legend_texts(axis) == ["digits", "distilled"]
    (line,) = axis.get_lines()
    assert np.allclose(line.get_xydata(), [[60, 50], [60, 60]])
    drawn = {c.get_label(): c.get_offsets().tolist() for c in axis.collections}
    assert np.allclose(drawn["digits"], [[60, 50], [30, 55]])
    low, high = axis.get_ylim()
    assert low < 50 < 60 < high


@pytest.mark.parametrize("macs", [60e6, 1e6])
def test_names_of_points_do_not_cover_each_other(macs):
    figure = accuracy_cost({"digits": [ModelPoint("mine", macs, 0.68)]}, published=True)
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    boxes = [super(type(text), text).get_window_extent() for text in texts]
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[index + 1 :]), texts[index].get_text()


def figures():
    space = load_space("tiny").open()
    architecture = first_architecture(space, splits=2)
    return {
        "curves": lambda: search_curves(phases(), 58_000_000),
        "heat": lambda: choice_heat_map(
            space, np.array([0, 5]), uniform(space, 2), None, architecture
        ),
        "picture": lambda: architecture_picture(architecture, 10),
        "training": lambda: training_curves({"train": training_history()}),
        "points": lambda: accuracy_cost({"digits": [ModelPoint("mine", 60e6, 0.7)]}, False),
    }


@pytest.mark.parametrize("name", list(figures()))
def test_equal_input_gives_equal_png_bytes(name):
    make = figures()[name]
    png = to_png_bytes(make(), 50)
    assert png == to_png_bytes(make(), 50)
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png


def test_equal_input_gives_equal_svg_text():
    """Of the other figures test_html.py compares two reports that hold them."""
    make = figures()["points"]
    svg = to_svg(make())
    assert svg == to_svg(make())
    assert "<dc:date>" not in svg
