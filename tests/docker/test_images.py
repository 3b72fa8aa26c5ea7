"""The images that are on this machine, run as a cluster would run them."""

import ast
import json
import re
from urllib.parse import urlsplit

import pytest

from components.images import CODE_LABEL, FAMILIES, TRACKING, code_digest
from containers.build import TARGETS, tagged
from containers.pip_settings import installed_settings
from containers.tool import find_tool
from fpnas import __version__
from fpnas.errors import InputError
from pipelines.names import USER_ID

pytestmark = pytest.mark.slow
ANY_USER = 4321
LIST_CUDA = """
import os, re
names = "cuda|cudart|cudnn|cublas|cufft|cusparse|nccl|nvrtc|torch_cuda"
library = re.compile(rf"lib({names})\\b.*\\.so")
for folder, _, files in os.walk("/"):
    if not folder.startswith(("/proc", "/sys")):
        for name in filter(library.match, files):
            print(os.path.join(folder, name))
"""
LARGEST_BYTES = {"prepare": 700e6, "decode": 1.5e9}


@pytest.fixture(scope="module")
def tool():
    try:
        return find_tool()
    except InputError as error:
        pytest.skip(f"no container engine: {error}")


@pytest.fixture(params=TARGETS)
def target(request, tool):
    require(tool, request.param)
    return request.param


@pytest.fixture(params=FAMILIES)
def family(request, tool):
    require(tool, request.param)
    return request.param


def require(tool, target):
    """Skips a test where an image is missing, or was built from other code than this."""
    if not tool.has(tagged(target)):
        pytest.skip(f"{tagged(target)} is not built (make images)")
    label = tool.inspect(tagged(target))["Config"]["Labels"].get(CODE_LABEL)
    if target in FAMILIES and label != code_digest(target):
        pytest.skip(f"{tagged(target)} was built from other code (make images)")


def run(tool, target, *words):
    """Runs a program in the image as any user, confined as the manifests confine pods."""
    confined = ["--rm", "--read-only", "--tmpfs", "/tmp", "--user", f"{ANY_USER}:{ANY_USER}"]
    confined += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none"]
    return tool.run("run", *confined, tagged(target), *words).stdout


def test_the_configuration_is_that_of_the_dockerfile(tool, target):
    config = tool.inspect(tagged(target))["Config"]
    assert config["User"] == f"{USER_ID}:{USER_ID}"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(
        r"[0-9a-f]{40}(-dirty)?|unknown", config["Labels"]["org.opencontainers.image.revision"]
    )


def test_every_stage_can_be_loaded_and_started(tool, family):
    code = f"""
import importlib, os
os.environ["_KFP_RUNTIME"] = "true"
import kfp.dsl.executor_main
import fpnas.stages.entry
for stage in {FAMILIES[family]!r}:
    importlib.import_module(f"fpnas.stages.{{stage}}").Config
print("loaded as", os.getuid())
"""
    assert run(tool, family, "python", "-c", code) == f"loaded as {ANY_USER}\n"
    for stage in FAMILIES[family]:
        assert "--config" in run(tool, family, "fpnas", "stage", stage, "--help")


def test_the_server_has_its_programs_and_the_driver_of_postgresql(tool):
    require(tool, TRACKING)
    code = "import boto3, psycopg2; print(psycopg2.__version__.split()[0])"
    assert run(tool, TRACKING, "python", "-c", code).startswith("2.")
    assert run(tool, TRACKING, "mlflow", "--version").startswith("mlflow, version ")


def test_nothing_can_be_written_but_tmp(tool, target):
    code = """
import os, tempfile
found = []
for folder, names, _ in os.walk("/"):
    names[:] = [n for n in names if os.path.join(folder, n) not in ("/proc", "/sys", "/dev")]
    if os.access(folder, os.W_OK):
        found.append(folder)
tempfile.TemporaryFile().write(b"x")
print(sorted(found))
"""
    # Podman mounts a file system in memory there, too.
    mounted = {"/tmp", "/var/tmp", "/run", "/run/lock"}
    assert set(ast.literal_eval(run(tool, target, "python", "-c", code))) <= mounted


@pytest.mark.parametrize("family", ["prepare", "decode"], indirect=True)
def test_small_images_are_small_and_have_no_cuda(tool, family):
    assert int(tool.inspect(tagged(family))["Size"]) < LARGEST_BYTES[family]
    assert run(tool, family, "python", "-c", LIST_CUDA) == ""


def test_cuda_would_be_found(tool):
    require(tool, "search")
    assert "libtorch_cuda.so" in run(tool, "search", "python", "-c", LIST_CUDA)


def test_nothing_of_the_index_is_left(tool, target):
    settings = installed_settings()
    hosts = {urlsplit(word).hostname for word in settings.config.split() if "://" in word}
    traces = {str(folder) for folder in settings.folders} | (hosts - {None, "pypi.org"})
    told = json.dumps(tool.inspect(tagged(target)))
    told += tool.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", tagged(target)).stdout
    assert [trace for trace in traces if trace in told] == []
    # Where pip and the build could have left something: all that is no package's own file.
    code = f"""
import os
traces = {[trace.encode() for trace in sorted(traces)]!r}
for top in ("/app", "/etc", "/home", "/requirements", "/root", "/run", "/tmp", "/var", "/venv"):
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            small = os.path.isfile(path) and os.path.getsize(path) < 1 << 20
            if small and not name.endswith((".py", ".pyc")) and os.access(path, os.R_OK):
                content = open(path, "rb").read()
                for trace in traces:
                    if trace in content:
                        print(path, trace)
"""
    assert run(tool, target, "python", "-c", code) == ""
