"""What the container of a stage gets: as little as will do."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from fpnas.stages.base import ALL_STAGES
from pipelines import names, stage_container
from pipelines.plan import Request, make_plan
from pipelines.resources import load_resources
from pipelines.stage_container import Host, arguments, hand_over, num_bytes, passed, read

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "very secret"}


def configs(**sections):
    return {name: ALL_STAGES[name].config_type.parse(s, name) for name, s in sections.items()}


def mounted(made):
    return {m["Target"]: m["ReadOnly"] for m in made["mounts"]}


def test_a_container_may_do_nothing_but_its_work(tmp_path):
    made = arguments(Host(), tmp_path / "run", tmp_path / "cache", {}, {}, KEYS)
    assert made["read_only"] is True
    assert made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges"]
    assert made["user"].split(":")[0] != "0"
    assert set(made["tmpfs"]) == {"/tmp"}
    assert "privileged" not in made
    assert "pid_mode" not in made
    # The run's folder and the cache, and none of the rest of the home with its keys and its S3.
    run, cache = str(tmp_path / "run"), str(tmp_path / "cache")
    assert mounted(made) == {run: False, cache: False}
    written = {made["environment"][k] for k in ("HOME", "TMPDIR", "FPNAS_HOME", "FPNAS_CACHE")}
    assert all(path.startswith((run, cache)) for path in written)


def test_what_stages_read_is_mounted_for_reading_at_its_own_place(tmp_path, monkeypatch):
    pictures, teacher, classes = (tmp_path / n for n in ("pictures", "t.safetensors", "c.json"))
    pictures.mkdir()
    teacher.touch()
    classes.touch()
    monkeypatch.chdir(tmp_path)
    options = {
        "teacher": "local:t.safetensors",
        "teacher_architecture": "torchvision:resnet18",
        "teacher_classes": "c.json",
    }
    overrides = tuple(f"distill.{key}={value}" for key, value in options.items())
    plan = make_plan(Request(data=str(pictures), overrides=overrides))
    made = arguments(Host(), tmp_path / "run", tmp_path / "cache", plan.configs, {}, KEYS)
    for path in (pictures, teacher, classes):
        assert mounted(made)[str(path)] is True
    assert all(m["Source"] == m["Target"] for m in made["mounts"])
    # A teacher named by a relative path is found from there.
    assert made["working_dir"] == str(tmp_path)


@pytest.mark.parametrize("data", ["digits", "s3://bucket/pictures", "imagenette"])
def test_names_and_buckets_are_no_folders(data):
    assert read(configs(prepare={"data": data})) == set()


def test_the_other_archives_of_ilsvrc_stand_beside_the_first(tmp_path):
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    archive.touch()
    assert read(configs(prepare={"data": str(archive)})) == {tmp_path}


def test_a_container_has_the_variables_that_lead_to_s3_and_mlflow_and_no_others():
    given = {
        **KEYS,
        "S3_ENDPOINT_URL": "http://localhost:9",
        "MLFLOW_S3_ENDPOINT_URL": "http://localhost:9",
        "FPNAS_STORAGE": "s3://b",
        "OMP_NUM_THREADS": "1",
        "https_proxy": "http://proxy",
        "NO_PROXY": "localhost",
    }
    others = {"PATH": "/bin", "GITHUB_TOKEN": "t", "FPNAS_HOME": "/h"}
    # Profiles are in files that are not in the container: boto3 would look for them in vain.
    others |= {"AWS_PROFILE": "p", "AWS_DEFAULT_PROFILE": "p"}
    assert passed({**given, **others}) == given


def test_keys_in_a_file_become_variables(tmp_path, monkeypatch):
    file = tmp_path / "credentials"
    file.write_text("[mine]\naws_access_key_id = id\naws_secret_access_key = very secret\n")
    for name in (*KEYS, "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = passed(dict(os.environ))
    assert {name: found[name] for name in KEYS} == KEYS
    assert not {"AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"} & found.keys()


def test_certificates_go_along(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    environ = {**KEYS, "AWS_CA_BUNDLE": str(bundle)}
    made = arguments(Host(), tmp_path / "run", tmp_path / "cache", {}, {}, environ)
    assert mounted(made)[str(bundle)] is True
    assert made["environment"]["AWS_CA_BUNDLE"] == str(bundle)


@pytest.mark.parametrize(
    ("uid", "host", "user"),
    [
        (1000, Host(), "1000:1000"),
        (0, Host(), f"{names.USER_ID}:{names.USER_ID}"),
        # In a rootless engine the person who started it is called root.
        (1000, Host(rootless=True), "0:0"),
    ],
)
def test_files_belong_to_whoever_started_the_run_and_root_runs_nothing(
    tmp_path, monkeypatch, uid, host, user
):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: uid)
    assert arguments(host, tmp_path, tmp_path / "c", {}, {}, KEYS)["user"] == user


def test_root_gives_the_folders_to_the_user_of_the_images(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").touch()
    given = {}
    monkeypatch.setattr(os, "lchown", lambda path, user, group: given.update({str(path): user}))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    hand_over(tmp_path, 1000, 1000)
    assert given == {}
    monkeypatch.setattr(os, "getuid", lambda: 0)
    hand_over(tmp_path, names.USER_ID, names.USER_ID)
    folders = (tmp_path, tmp_path / "logs", tmp_path / "logs" / "a.log")
    assert given == {str(path): names.USER_ID for path in folders}


def test_a_file_that_another_run_removes_is_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    given = []

    def lchown(path, *_):
        given.append(Path(path))
        (tmp_path / "a").unlink(missing_ok=True)

    monkeypatch.setattr(os, "lchown", lchown)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    hand_over(tmp_path, names.USER_ID, names.USER_ID)
    assert given == [tmp_path, tmp_path / "b"]


def test_limits_are_those_of_this_process_but_none_that_an_engine_cannot_give(
    tmp_path, monkeypatch
):
    infinity = resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda which: (1024, 4096) if which == resource.RLIMIT_NOFILE else (infinity, infinity),
    )
    made = arguments(Host(), tmp_path, tmp_path / "c", {}, {}, KEYS)
    found = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in made["ulimits"]}
    assert found == {"nofile": (1024, 4096), "nproc": (32768, 32768)}


@pytest.mark.parametrize(
    ("host", "driver"), [(Host(), None), (Host(podman=True), "cdi")], ids=["docker", "podman"]
)
def test_gpus_are_passed_through_where_there_are_some(tmp_path, monkeypatch, host, driver):
    monkeypatch.setattr(stage_container, "_NVIDIA", tmp_path / "nvidiactl")
    assert "device_requests" not in arguments(host, tmp_path, tmp_path / "c", {}, {}, KEYS)
    (tmp_path / "nvidiactl").touch()
    (wanted,) = arguments(host, tmp_path, tmp_path / "c", {}, {}, KEYS)["device_requests"]
    if driver:
        assert (wanted["Driver"], wanted["DeviceIDs"]) == (driver, ["nvidia.com/gpu=all"])
    else:
        assert (wanted["Count"], wanted["Capabilities"]) == (-1, [["gpu"]])


def test_selinux_does_not_keep_a_container_from_its_folders(tmp_path):
    made = arguments(Host(selinux=True), tmp_path, tmp_path / "c", {}, {}, KEYS)
    assert "label=disable" in made["security_opt"]


def test_the_engine_tells_what_it_is():
    class Client:
        def info(self):
            return {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}

        def version(self):
            return {"Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}]}

    assert Host.of(Client()) == Host(podman=True, rootless=True, selinux=False)


def test_every_size_of_shared_memory_in_the_table_is_a_number_of_bytes():
    stages = load_resources({}).stages
    sizes = {name: num_bytes(own.shared_memory) for name, own in stages.items()}
    assert sizes["prepare"] == 64 << 20
    assert sizes["train"] == 4 << 30


def test_nothing_but_the_environment_has_the_keys(tmp_path):
    made = arguments(Host(), tmp_path, tmp_path / "c", {}, {}, KEYS)
    assert made.pop("environment")["AWS_SECRET_ACCESS_KEY"] == "very secret"
    assert "very secret" not in json.dumps(made, default=str)
    assert Path(made["working_dir"]) == tmp_path
