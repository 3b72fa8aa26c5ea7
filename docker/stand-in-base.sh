#!/bin/sh
# Makes a stand-in for python:3.11-slim-bookworm out of Debian's packages, where no registry of
# images can be reached. Needs root, mmdebstrap and podman.
#
#   docker/stand-in-base.sh [NAME]      NAME defaults to the base of docker/Dockerfile
#
# MIRROR is the Debian mirror, that of this machine by default.
set -eu

name="${1:-docker.io/library/python:3.11-slim-bookworm}"

for tool in mmdebstrap podman; do
    if ! command -v "$tool" >/dev/null; then
        echo "$0: $tool is missing; install it: apt-get install mmdebstrap podman" >&2
        exit 2
    fi
done
if [ "$(id -u)" -ne 0 ]; then
    echo "$0: needs root, because mmdebstrap makes a root file system" >&2
    exit 2
fi
if podman image exists "$name"; then
    echo "$0: $name is there already; podman rmi $name to make it again" >&2
    exit 0
fi

archive="$(mktemp --suffix=.tar)"
trap 'rm -f "$archive"' EXIT
# Documentation and translations are left out, as in Docker's official images. The hook's $1 is
# expanded by mmdebstrap.
# shellcheck disable=SC2016
mmdebstrap --quiet --variant=minbase --mode=root \
    --include=ca-certificates,python3,python3-venv \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*' \
    bookworm "$archive" ${MIRROR:+"$MIRROR"}
podman import --message 'stand-in made by docker/stand-in-base.sh' "$archive" "$name"
podman image inspect --format '{{.Size}} bytes' "$name"
