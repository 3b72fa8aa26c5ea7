SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What pipeline-run and pipeline-compile pass on; empty ones take the command's defaults.
SPACE ?= tiny
MODEL ?=
DATA ?= digits
PROFILE ?= smoke
ENGINE ?= local
STRATEGY ?= fpnas
SEED ?= 0
SET ?=
PORT ?= 5000
NAME ?=
FORCE ?=
SUMMARY ?=
IMAGES ?=
PHOTOS ?=
OVERLAY ?=
PINS ?=
IMAGE_PREFIX ?= $(FPNAS_IMAGE_PREFIX)
BASE ?=
TOOL ?=
OUTPUT ?= build/$(basename $(notdir $(SPACE)))$(if $(MODEL),-$(MODEL)).yaml

BASELINE_OPTIONS = --space '$(SPACE)' $(if $(MODEL),--model '$(MODEL)') --data '$(DATA)' \
  --profile '$(PROFILE)' --seed '$(SEED)' $(foreach pair,$(SET),--set '$(pair)')
RUN_OPTIONS = $(BASELINE_OPTIONS) --strategy '$(STRATEGY)'
IMAGE_OPTIONS = $(if $(BASE),--base '$(BASE)') $(if $(TOOL),--tool '$(TOOL)')

.PHONY: help setup pipeline-run retrain baseline pipeline-compile mlflow-ui compare doctor \
  images push-images validate validate-k8s validate-dockerfiles validate-workflows validate-pipelines k8s-render bench-images bench-search bench-engine bench-gpu bench-loader bench-train \
  test lint format clean

help:  ## Show this help
	@echo "FP-NAS: labelled images and a compute budget in, a trained classifier out."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Options of pipeline-run: SPACE=$(SPACE) MODEL= DATA=$(DATA) PROFILE=$(PROFILE)" \
	  "ENGINE=$(ENGINE) STRATEGY=$(STRATEGY) SEED=$(SEED) SET='section.key=value ...'"

# The stamp is newer than what it was made from, so setting up again happens when that changes.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fpnas needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.stamp  ## Create .venv with everything that is needed

pipeline-run: setup  ## Search, decode, train, distill and register, ENGINE=local, docker or kfp
	@$(BIN)/fpnas run --engine '$(ENGINE)' $(RUN_OPTIONS)

retrain: setup  ## Do the same if what the champion was made of has changed, ENGINE=local, docker or kfp
	@$(BIN)/fpnas retrain --engine '$(ENGINE)' $(RUN_OPTIONS) $(if $(FORCE),--force) $(if $(SUMMARY),--summary '$(SUMMARY)')

baseline: setup  ## Train the published network NAME, or NAME=random, by the same recipe
	@test -n '$(NAME)' || { echo "give NAME=mobilenet_v3_small, or see $(BIN)/fpnas baseline --help"; exit 2; }
	@$(BIN)/fpnas baseline '$(NAME)' --engine '$(ENGINE)' $(BASELINE_OPTIONS)

pipeline-compile: setup  ## Write the pipeline for a cluster to OUTPUT, ENGINE=kfp or argo
	@$(BIN)/fpnas compile --engine '$(ENGINE:local=kfp)' $(RUN_OPTIONS) --output '$(OUTPUT)'

mlflow-ui: setup  ## Serve MLflow's pages over this machine's runs on PORT
	@$(BIN)/fpnas ui --port '$(PORT)'

compare: setup  ## Put the finished runs of this machine side by side, in build/comparison too
	@$(BIN)/fpnas compare --output build/comparison

doctor: setup  ## Check everything that a run needs
	@$(BIN)/fpnas doctor --engine '$(ENGINE)'

images: setup  ## Build the container images with podman or docker, from BASE
	@FPNAS_IMAGE_PREFIX='$(IMAGE_PREFIX)' $(BIN)/python -m containers build $(IMAGE_OPTIONS)

push-images: setup  ## Push the images to IMAGE_PREFIX, and write their digests to build/images.txt
	@FPNAS_IMAGE_PREFIX='$(IMAGE_PREFIX)' $(BIN)/python -m containers push \
	  $(if $(TOOL),--tool '$(TOOL)') --output build/images.txt

# Every kind of file that a cluster or a service reads has a target of its own here.
validate: validate-dockerfiles validate-k8s validate-workflows validate-pipelines  ## Check Dockerfile, manifests, workflows and compiled pipelines

validate-dockerfiles: setup
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck docker/*.sh

validate-k8s: setup
	$(BIN)/yamllint --strict k8s
	$(BIN)/python -m validation k8s

validate-workflows: setup
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --no-progress --persona auditor --min-severity low .github/workflows
	$(BIN)/yamllint --strict .github/workflows

validate-pipelines: setup
	$(BIN)/python -m validation pipelines

k8s-render: setup  ## Write OVERLAY with PINS='name=repository@sha256:... ...' to build/k8s
	@$(BIN)/python -m validation render '$(OVERLAY)' --output 'build/k8s/$(OVERLAY).yaml' \
	  $(foreach pin,$(PINS),--image '$(pin)')

bench-images: setup  ## Build the images without any cache, and write results/images.csv
	@$(BIN)/python -m containers build --no-cache $(IMAGE_OPTIONS) --record results/images.csv

bench-search: setup  ## Compare the strategies on IMAGES (tiny-imagenet-25, extracted); hours
	@test -n '$(IMAGES)' || { echo "give IMAGES=<folder of tiny-imagenet-25>"; exit 2; }
	$(BIN)/python benchmarks/retrain.py --images '$(IMAGES)' --random 20 --ground-truth
	$(BIN)/python benchmarks/searches.py --images '$(IMAGES)'
	$(BIN)/python benchmarks/searches.py --images '$(IMAGES)' --space ground-truth
	$(BIN)/python benchmarks/rank_agreement.py --images '$(IMAGES)'
	$(BIN)/python benchmarks/rank_agreement.py --images '$(IMAGES)' --apart '' --num-steps 6000
	$(BIN)/python benchmarks/search_report.py

bench-engine: setup  ## Compare the engine with the naive algorithm on IMAGES
	@test -n '$(IMAGES)' || { echo "give IMAGES=<folder of tiny-imagenet-25>"; exit 2; }
	$(BIN)/python benchmarks/resources.py
	$(BIN)/python benchmarks/engine.py --images '$(IMAGES)'

bench-gpu: setup  ## Measure steps and memory of all strategies on a GPU, at most 8 minutes
	$(BIN)/python benchmarks/gpu.py $(if $(IMAGES),--images '$(IMAGES)')

bench-loader: setup  ## Compare our loader with others on IMAGES and PHOTOS (photos-1000); half an hour
	@test -n '$(IMAGES)' -a -n '$(PHOTOS)' || { echo "give IMAGES=<folder of tiny-imagenet-25> PHOTOS=<folder of photos-1000>"; exit 2; }
	$(BIN)/python benchmarks/loader.py --tiny '$(IMAGES)' --photos '$(PHOTOS)'
	$(BIN)/python benchmarks/loader_share.py

bench-train: setup  ## Compare the training speed of decoded networks with timm's efficientnet_b0; an hour
	$(BIN)/python benchmarks/train_speed.py

test: setup  ## Run the tests
	@$(BIN)/pytest

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Delete the environment and caches; runs and models under .fpnas stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
