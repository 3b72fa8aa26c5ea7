"""Object storage: S3 objects, artifacts with manifests, and checkpoints.

Importing this imports neither torch nor anything that does.
"""

from fpnas.storage.artifacts import Artifact, ArtifactWriter, delete_artifact, stage_key
from fpnas.storage.cache import cache_directory, home_directory
from fpnas.storage.checkpoints import CheckpointSlot
from fpnas.storage.connection import Connection, parse_s3_uri
from fpnas.storage.errors import ArtifactCorruptError, ObjectMissingError, StorageError
from fpnas.storage.store import ObjectInfo, Store, connect

__all__ = [
    "Artifact",
    "ArtifactCorruptError",
    "ArtifactWriter",
    "CheckpointSlot",
    "Connection",
    "ObjectInfo",
    "ObjectMissingError",
    "StorageError",
    "Store",
    "cache_directory",
    "connect",
    "delete_artifact",
    "home_directory",
    "parse_s3_uri",
    "stage_key",
]
