"""What every image must have, and must not have."""

import re

import pytest

from components.images import CODE_LABEL, FAMILIES, TRACKING
from pipelines.names import USER_ID

from .conftest import ROOT, TEXT, lineage, requirement_files

IMAGES = (*FAMILIES, TRACKING)


def test_there_is_a_target_for_every_image(dockerfile):
    built = {name for name in dockerfile if dockerfile[name].all("USER")}
    assert built == set(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_images_run_as_the_user_of_the_manifests(dockerfile, name):
    assert dockerfile[name].steps[-1] == ("USER", f"{USER_ID}:{USER_ID}")


@pytest.mark.parametrize("name", IMAGES)
def test_images_say_what_is_in_them(dockerfile, name):
    (labels,) = dockerfile[name].all("LABEL")
    assert f'org.opencontainers.image.title="fpnas-{name}"' in labels
    assert 'org.opencontainers.image.version="${VERSION}"' in labels
    assert 'org.opencontainers.image.revision="${REVISION}"' in labels
    assert (f'{CODE_LABEL}="${{CODE}}"' in labels) == (name in FAMILIES)


@pytest.mark.parametrize("name", IMAGES)
def test_the_base_is_an_argument(dockerfile, name):
    assert dockerfile[lineage(dockerfile, name)[-1]].parent == "${BASE}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_comes_after_all_packages(dockerfile, family):
    own, *before = lineage(dockerfile, family)
    assert dockerfile[own].all("COPY") == ["--from=package /app /app"]
    assert dockerfile[own].all("RUN") == []
    copied = [c for part in before for c in dockerfile[part].all("COPY")]
    assert all(
        re.fullmatch(r"(constraints|docker/requirements/).*/requirements/", c) for c in copied
    )


def test_search_and_train_share_the_layers_with_torch(dockerfile):
    shared = set(lineage(dockerfile, "search")) & set(lineage(dockerfile, "train"))
    assert "search-packages" in shared
    assert "search.txt" in requirement_files(dockerfile, "search")


def test_every_installation_is_pinned(dockerfile):
    installs = [
        r for t in dockerfile.values() for r in t.all("RUN") if "pip" in r and "install" in r
    ]
    assert len(installs) >= 7
    for words in installs:
        pinned = "--constraint /requirements/constraints.txt" in words
        exact = "--requirement /requirements/torch-cpu.txt" in words
        assert pinned or exact or words.endswith("--target /app .")


def test_nothing_secret_can_get_into_a_layer(dockerfile):
    assert "ADD" not in {word for target in dockerfile.values() for word, _ in target.steps}
    arguments = {a for t in dockerfile.values() for rest in t.all("ARG") for a in rest.split()}
    assert {a.partition("=")[0] for a in arguments} == {
        "CACHE_KEY", "PIP_CONFIG_FILE", "VERSION", "REVISION", "CODE",
    }  # fmt: skip
    code = re.sub(r"^#.*", "", TEXT, flags=re.M)
    assert not re.search(r"https?://|index-url|trusted-host|password|token", code, re.IGNORECASE)
    for words in (
        r for t in dockerfile.values() for r in t.all("RUN") if "pip" in r and "install" in r
    ):
        assert "--mount=type=secret,id=pip.conf" in words
        assert "--no-cache-dir" in words


def test_the_context_holds_what_is_copied_and_nothing_else(dockerfile):
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = set()
    for target in dockerfile.values():
        for words in target.all("COPY"):
            if not words.startswith("--from"):
                copied |= set(words.split()[:-1])
    tops = {"docker/requirements" if c.startswith("docker/") else c for c in copied}
    assert tops == allowed
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
