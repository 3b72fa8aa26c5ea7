"""Builds the container images of ``docker/`` and measures them."""
