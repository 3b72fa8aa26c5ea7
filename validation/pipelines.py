"""Check the files that the pipeline is compiled to: KFP's intermediate representation and Argo's.

Both formats drop what they do not know without a word. So each file is parsed into the messages of
its own format, in which an unknown field is an error, and has to come back as it was.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.argo import checked
from pipelines.baseline import plan_for
from pipelines.compile import Compilable, compile_pipeline
from pipelines.plan import Request
from validation import pod_security, schemas
from validation.objects import Finding, Manifest

_DATA = "s3://bucket/pictures"


@dataclass(frozen=True)
class Case:
    """A pipeline that is compiled and checked."""

    space: str
    model: str
    profile: str
    baseline: str | None = None
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = (self.baseline or f"{self.space} {self.model}", self.profile, *self.overrides)
        return ", ".join(words)

    def plan(self) -> Compilable:
        """Resolves it."""
        request = Request(self.space, self.model, _DATA, self.profile, overrides=self.overrides)
        return plan_for(request, self.baseline)


# Two nodes of eight GPUs each, whose TrainJob is held against Trainer's models when it is compiled.
_NODES = ("resources.train.nodes=2", "resources.train.gpus=8", "train.runtime.num_processes=16")

# Every profile, and every space that comes with the package.
CASES = (
    Case("tiny", "t0", "smoke"),
    Case("tiny", "t1", "laptop"),
    Case("fbnetv2_f", "s1", "paper"),
    Case("fbnetv2_f_fine", "s1", "paper"),
    Case("sa_f", "s1pp", "imagenet-s"),
    Case("sa_expanded", "l0", "paper"),
    Case("sa_expanded", "l1", "imagenet-l"),
    Case("sa_expanded", "l2", "paper"),
    Case("sa_expanded", "l2", "imagenet-l", overrides=_NODES),
    Case("sa_expanded", "l2", "imagenet-s", baseline="mobilenet_v3_large"),
)


def check(case: Case) -> list[Finding]:
    """Compiles a case for both engines and checks the files."""
    plan = case.plan()
    with tempfile.TemporaryDirectory() as folder:
        texts = {}
        for name, engine in (("kfp", "kfp"), ("again", "kfp"), ("argo", "argo")):
            path = Path(folder) / f"{name}.yaml"
            compile_pipeline(plan, path, engine)
            texts[name] = path.read_text(encoding="utf-8")
    subject = f"{case}: kfp"
    findings = [
        *([Finding(subject, "compiles to another file")] if texts["kfp"] != texts["again"] else []),
        *check_ir(subject, texts["kfp"]),
        *check_argo(f"{case}: argo", yaml.safe_load(texts["argo"])),
    ]
    return findings


def check_ir(subject: str, text: str) -> list[Finding]:
    """Parses KFP's two documents strictly, and has KFP load and compile them again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from google.protobuf import json_format
        from kfp import compiler, components
        from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
        from kfp.pipeline_spec import pipeline_spec_pb2 as messages

        documents = list(yaml.safe_load_all(text))
        if len(documents) != 2:
            return [Finding(subject, f"has {len(documents)} documents, not 2")]
        specification, platform = documents
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        parts: dict[str, tuple[Any, Any]] = {
            "pipeline": (specification, messages.PipelineSpec()),
            # This part is free-form in the message of the whole, as a platform's executors are.
            "deployment": (specification["deploymentSpec"], messages.PipelineDeploymentConfig()),
            "platform": (platform, messages.PlatformSpec()),
            **{n: (own, kubernetes.KubernetesExecutorConfig()) for n, own in executors.items()},
        }
        findings = []
        for name, (document, message) in parts.items():
            try:
                json_format.ParseDict(document, message)
            except json_format.ParseError as error:
                findings.append(Finding(subject, f"{name}: {error}"))
                continue
            if json_format.MessageToDict(message) != document:
                findings.append(Finding(subject, f"{name}: does not come back as it was"))
        if findings:
            return findings
        loaded = components.load_component_from_text(text)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(loaded, package_path=str(path))
            back = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        return [Finding(subject, "KFP compiles what it loaded to another pipeline")] * (
            back != documents
        )


def check_argo(subject: str, template: Manifest) -> list[Finding]:
    """Checks Argo's fields, and every task as the pod that it becomes."""
    try:
        checked(template)
    except ValueError as error:
        return [Finding(subject, str(error))]
    made = list(_pods(template))
    findings = [f for f in schemas.check(made) if f.problem != "is there twice"]
    if not findings:
        # Argo's executor reports to the cluster's API, so a pod has to have a token.
        findings = [
            Finding(f"Pod/{pod['metadata']['name']}", f"{rule}: {problem}")
            for pod in made
            for rule, problem in (
                *pod_security.restricted(pod["spec"]),
                *pod_security.contained(pod["spec"]["containers"]),
            )
        ]
    return [Finding(subject, str(finding)) for finding in findings]


def _pods(template: Manifest) -> Iterator[Manifest]:
    spec = template["spec"]
    for own in spec["templates"]:
        if "container" not in own:
            continue
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": own["name"], "namespace": template["metadata"]["namespace"]},
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": spec["serviceAccountName"],
                "securityContext": spec["securityContext"],
                "containers": [{"name": "main", **own["container"]}],
                **{
                    key: own[key]
                    for key in ("nodeSelector", "tolerations", "volumes")
                    if own.get(key)
                },
            },
        }
