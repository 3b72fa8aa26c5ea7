"""The table of resources, and a profile over it."""

from __future__ import annotations

import pytest

from fpnas.errors import InputError
from fpnas.stages.base import ALL_STAGES
from pipelines.plan import Request, make_plan
from pipelines.resources import load_resources


def test_the_table_has_every_stage_and_no_other():
    assert set(load_resources({}).stages) == set(ALL_STAGES)


def test_a_profile_changes_one_value_and_keeps_the_others():
    before, after = load_resources({}), load_resources({"train": {"retries": {"limit": 9}}})
    assert after.stages["train"].retries.limit == 9
    assert after.stages["train"].retries.factor == before.stages["train"].retries.factor
    assert after.stages["train"].memory == before.stages["train"].memory
    assert after.stages["coarse"] == before.stages["coarse"]


def test_a_stage_on_spot_nodes_tolerates_both_of_their_taints():
    table = load_resources({"coarse": {"pool": "gpu-spot", "gpus": 1, "gpu_product": "L4"}})
    taints = [(t.key, t.value, t.effect) for t in table.pool(table.stages["coarse"]).taints]
    assert taints == [
        ("nvidia.com/gpu", "present", "NoSchedule"),
        ("fpnas.io/spot", "true", "NoSchedule"),
    ]
    assert table.node_selector(table.stages["coarse"]) == {
        "fpnas.io/pool": "gpu-spot",
        "nvidia.com/gpu.product": "L4",
    }


def test_a_pool_of_ones_own_can_be_used():
    table = load_resources(
        {"pools": {"amd": {"gpu_resource": "amd.com/gpu"}}, "train": {"pool": "amd", "gpus": 2}}
    )
    assert table.pool(table.stages["train"]).gpu_resource == "amd.com/gpu"


def test_a_cluster_may_have_priorities_of_its_own():
    table = load_resources({"priorities": ["urgent"], "train": {"priority": "urgent"}})
    assert table.stages["train"].priority == "urgent"


@pytest.mark.parametrize(
    ("section", "field", "words"),
    [
        ({"trian": {"gpus": 1}}, "resources.trian", "did you mean train"),
        ({"train": {"gpu": 1}}, "resources.train.gpu", "Extra inputs"),
        ({"train": {"memory": "16GB"}}, "resources.train.memory", "should match pattern"),
        ({"train": {"cpu": 0}}, "resources.train.cpu", "should match pattern"),
        ({"train": {"pool": "gpus", "gpus": 1}}, "resources.train.pool", "did you mean gpu"),
        ({"train": {"pool": "gpu"}}, "resources.train.pool", "at least one GPU"),
        ({"train": {"gpus": 1}}, "resources.train.pool", "gpu or gpu-spot"),
        ({"train": {"retries": {"limit": -1}}}, "resources.train.retries.limit", "greater than"),
        ({"train": 3}, "resources.train", "not a mapping"),
        (
            {"train": {"priority": "fpnas-hi"}},
            "resources.train.priority",
            "did you mean fpnas-high",
        ),
    ],
)
def test_a_wrong_entry_is_named(section, field, words):
    with pytest.raises(InputError, match=words) as raised:
        load_resources(section)
    assert raised.value.field == field


def test_resources_do_not_change_what_a_run_is():
    plain = make_plan(Request())
    more = make_plan(Request(overrides=("resources.train.memory=64Gi",)))
    assert more.resources.stages["train"].memory == "64Gi"
    assert more.info.run_id == plain.info.run_id
    assert more.parameters()["train_config"] == plain.parameters()["train_config"]


def test_every_process_of_a_stage_has_a_gpu():
    eight = ("resources.train.gpus=8", "resources.train.pool=gpu")
    with pytest.raises(InputError, match=r"--set train\.runtime\.num_processes=8"):
        make_plan(Request(overrides=eight))
    plan = make_plan(Request(overrides=(*eight, "train.runtime.num_processes=8")))
    assert plan.resources.stages["train"].gpus == 8


TWO_NODES = (
    *("resources.train.pool=gpu", "resources.train.gpus=4", "resources.train.nodes=2"),
    "train.runtime.num_processes=8",
)


def test_the_task_of_a_stage_on_several_nodes_is_small_and_has_its_retries_and_time():
    table = make_plan(Request(overrides=TWO_NODES)).resources
    own, task = table.stages["train"], table.task("train")
    assert (own.nodes, own.gpus, own.pool) == (2, 4, "gpu")
    assert (task.gpus, task.pool, task.cpu) == (0, "cpu", "500m")
    assert task.timeout_seconds == own.timeout_seconds + table.launcher.queue_seconds
    assert (task.retries, task.priority) == (own.retries, own.priority)
    assert table.task("coarse") is table.stages["coarse"]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (("train.runtime.num_processes=7",), "nodes", "7 process.*num_processes=8"),
        (("train.runtime.num_processes=4",), "gpus", "num_processes=8"),
        (("resources.decode.nodes=2",), "nodes", "use one node"),
        (("resources.launcher.pool=gpu",), "pool", "at least one GPU"),
    ],
)
def test_processes_are_shared_out_evenly_on_nodes(changes, field, words):
    with pytest.raises(InputError, match=words) as raised:
        make_plan(Request(overrides=(*TWO_NODES, *changes)))
    assert raised.value.field.endswith(f".{field}")


def test_the_profile_of_the_paper_searches_on_spot_gpus_and_trains_on_others():
    stages = make_plan(Request(space="fbnetv2_f", profile="paper")).resources.stages
    pools = {name: own.pool for name, own in stages.items()}
    assert {pools["coarse"], pools["fine"]} == {"gpu-spot"}
    assert {pools["train"], pools["distill"]} == {"gpu"}
    assert {pools["prepare"], pools["decode"], pools["register"]} == {"cpu"}
