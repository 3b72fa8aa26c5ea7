import copy
import functools

import pytest

from validation import kustomize


@functools.cache
def built(overlay):
    return kustomize.build(kustomize.K8S / "overlays" / overlay)


@pytest.fixture
def overlay():
    """An overlay's objects by its name; a copy, so that a test may break it."""
    return lambda name: copy.deepcopy(built(name))


@pytest.fixture
def find():
    """The one object that ``Kind/namespace/name`` or the end of it names."""

    def one(manifests, kind, name):
        (found,) = [
            item for item in manifests if item["kind"] == kind and item["metadata"]["name"] == name
        ]
        return found

    return one
