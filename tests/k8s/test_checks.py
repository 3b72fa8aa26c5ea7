"""Every check finds what it is for: an overlay that passes is broken in one place."""

import pytest

from pipelines.resources import load_resources
from validation import capacity, kustomize, network, pod_security, references, schemas
from validation.objects import pods


def deployment(manifests):
    (found,) = [m for m in manifests if m["kind"] == "Deployment"]
    return found


def template(manifests):
    return deployment(manifests)["spec"]["template"]["spec"]


def container(manifests):
    return template(manifests)["containers"][0]


def named(manifests, kind, name):
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def text(findings):
    return "\n".join(map(str, findings))


@pytest.mark.parametrize(
    ("kind", "name", "change", "problem"),
    [
        ("Deployment", "mlflow", {"replica": 2}, "replica"),
        ("ClusterQueue", "fpnas", {"cohorts": "x"}, "spec.cohorts: Extra inputs"),
        ("ResourceFlavor", "gpu", {"nodeLabels": {}}, "spec.nodeLabels"),
        ("LocalQueue", "fpnas", {"clusterQueue": "Not A Name"}, "spec.clusterQueue"),
    ],
)
def test_an_unknown_or_wrong_field_is_found(overlay, kind, name, change, problem):
    manifests = overlay("onprem")
    named(manifests, kind, name)["spec"].update(change)
    assert problem in text(schemas.check(manifests))


def test_a_priority_class_has_its_fields_at_the_top(overlay):
    manifests = overlay("onprem")
    named(manifests, "WorkloadPriorityClass", "fpnas-low").update(value="low", priority=1)
    found = text(schemas.check(manifests))
    assert "fpnas-low: value: Input should be a valid integer" in found
    assert "fpnas-low: priority: Extra inputs" in found


def test_the_priorities_that_a_stage_may_have_are_made(overlay):
    made = {
        m["metadata"]["name"]: m["value"]
        for m in overlay("gke")
        if m["kind"] == "WorkloadPriorityClass"
    }
    assert set(made) == set(load_resources({}).priorities)
    assert made["fpnas-low"] < 0 < made["fpnas-high"]


def test_a_flavor_has_to_list_all_covered_resources(overlay):
    manifests = overlay("onprem")
    named(manifests, "ClusterQueue", "fpnas")["spec"]["resourceGroups"][0]["flavors"][0][
        "resources"
    ].pop()
    assert "flavor cpu must list" in text(schemas.check(manifests))


def test_secret_stores_and_external_secrets_are_checked(overlay):
    manifests = overlay("gke")
    named(manifests, "SecretStore", "fpnas")["spec"]["provider"]["aws"] = None
    named(manifests, "SecretStore", "fpnas")["spec"]["provider"]["gcpsm"]["projectId"] = "x"
    named(manifests, "ExternalSecret", "fpnas-s3")["spec"]["refreshInterval"] = "often"
    found = text(schemas.check(manifests))
    assert "projectId" in found
    assert "refreshInterval" in found


def test_an_unknown_kind_and_a_second_object_of_one_name_are_found(overlay):
    manifests = overlay("kind")
    manifests += [
        deployment(manifests),
        {"apiVersion": "a/v1", "kind": "B", "metadata": {"name": "c"}},
    ]
    found = text(schemas.check(manifests))
    assert "Deployment/fpnas/mlflow: is there twice" in found
    assert "B/c: a/v1 B has no schema" in found


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("hostNetwork", lambda pod, _: pod.update(hostNetwork=True)),
        ("hostPID", lambda pod, _: pod.update(hostPID=True)),
        ("hostIPC", lambda pod, _: pod.update(hostIPC=True)),
        ("volumes", lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        (
            "sysctls",
            lambda pod, _: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]),
        ),
        ("runAsUser", lambda pod, _: pod["securityContext"].update(runAsUser=0)),
        ("runAsUser", lambda _, one: one["securityContext"].update(runAsUser=0)),
        ("runAsNonRoot", lambda pod, _: pod["securityContext"].pop("runAsNonRoot")),
        ("runAsNonRoot", lambda _, one: one["securityContext"].update(runAsNonRoot=False)),
        ("seccompProfile", lambda pod, _: pod["securityContext"].pop("seccompProfile")),
        (
            "seccompProfile",
            lambda _, one: one["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        ),
        (
            "appArmorProfile",
            lambda _, one: one["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
        ),
        (
            "seLinuxOptions",
            lambda _, one: one["securityContext"].update(seLinuxOptions={"user": "u"}),
        ),
        ("privileged", lambda _, one: one["securityContext"].update(privileged=True)),
        (
            "allowPrivilegeEscalation",
            lambda _, one: one["securityContext"].pop("allowPrivilegeEscalation"),
        ),
        ("capabilities", lambda _, one: one["securityContext"].pop("capabilities")),
        (
            "capabilities",
            lambda _, one: one["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        ),
        ("procMount", lambda _, one: one["securityContext"].update(procMount="Unmasked")),
        ("hostPorts", lambda _, one: one["ports"][0].update(hostPort=80)),
        ("probes", lambda _, one: one["livenessProbe"]["httpGet"].update(host="1.2.3.4")),
        (
            "hostProcess",
            lambda pod, _: pod["securityContext"].update(windowsOptions={"hostProcess": True}),
        ),
        (
            "readOnlyRootFilesystem",
            lambda _, one: one["securityContext"].pop("readOnlyRootFilesystem"),
        ),
        ("resources", lambda _, one: one["resources"]["limits"].pop("memory")),
        ("automountServiceAccountToken", lambda pod, _: pod.pop("automountServiceAccountToken")),
    ],
)
def test_what_the_restricted_level_forbids_is_found(overlay, rule, change):
    manifests = overlay("kind")
    assert pod_security.check(manifests) == []
    change(template(manifests), container(manifests))
    findings = pod_security.check(manifests)
    assert {str(item).split(": ")[1] for item in findings} == {rule}


def test_a_secret_manager_may_have_temporary_keys(overlay):
    manifests = overlay("eks")
    data = named(manifests, "ExternalSecret", "fpnas-s3")["spec"]["data"]
    data.append({**data[0], "secretKey": "AWS_SESSION_TOKEN"})
    assert references.check(manifests) == []


def test_an_init_container_is_checked_too(overlay):
    manifests = overlay("kind")
    (backup,) = [pod for pod in pods(manifests) if pod.subject.startswith("CronJob")]
    backup.spec["initContainers"][0]["securityContext"]["privileged"] = True
    assert "container dump: must not be set" in text(pod_security.check(manifests))


def test_the_device_plugin_s_exception_holds_only_while_it_is_needed(overlay):
    manifests = overlay("eks")
    (agent,) = [pod for pod in pods(manifests) if pod.namespace == "kube-system"]
    agent.spec["hostPID"] = True
    assert "hostPID" in text(pod_security.check(manifests))
    del agent.spec["hostPID"], agent.spec["volumes"]
    assert "needs no exception from volumes" in text(pod_security.check(manifests))


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        (
            "account nobody does not exist",
            lambda m: template(m).update(serviceAccountName="nobody"),
        ),
        ("account None does not exist", lambda m: template(m).pop("serviceAccountName")),
        (
            "role x does not exist",
            lambda m: named(m, "RoleBinding", "fpnas-pipeline")["roleRef"].update(name="x"),
        ),
        (
            "subject x does not",
            lambda m: named(m, "RoleBinding", "fpnas-pipeline")["subjects"][0].update(name="x"),
        ),
        (
            "must not use *",
            lambda m: named(m, "Role", "fpnas-pipeline")["rules"][0].update(verbs=["*"]),
        ),
        (
            "must name the secrets",
            lambda m: named(m, "Role", "fpnas-pipeline")["rules"][2].pop("resourceNames"),
        ),
        (
            "secrets are made outside",
            lambda m: m.append(
                {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Yg=="}}
            ),
        ),
        (
            "secret fpnas-s3 has no key X",
            lambda m: container(m)["env"].append(
                {"name": "X", "valueFrom": {"secretKeyRef": {"name": "fpnas-s3", "key": "X"}}}
            ),
        ),
        (
            # One that is waited for must be there.
            "secret fpnas-s3 has no key AWS_SESSION_TOKEN",
            lambda m: [
                variable["valueFrom"]["secretKeyRef"].pop("optional")
                for variable in container(m)["env"]
                if variable["name"] == "AWS_SESSION_TOKEN"
            ],
        ),
        (
            "config map fpnas-storage has no key X",
            lambda m: container(m)["env"].append(
                {
                    "name": "X",
                    "valueFrom": {"configMapKeyRef": {"name": "fpnas-storage", "key": "X"}},
                }
            ),
        ),
        (
            "config map x does not exist",
            lambda m: template(m)["volumes"].append({"name": "x", "configMap": {"name": "x"}}),
        ),
        ("makes the keys", lambda m: named(m, "ExternalSecret", "fpnas-s3")["spec"]["data"].pop()),
        ("is missing", lambda m: m.remove(named(m, "ExternalSecret", "fpnas-s3"))),
        (
            "selects no pod",
            lambda m: named(m, "Service", "mlflow")["spec"]["selector"].update(x="y"),
        ),
        (
            "has the port web",
            lambda m: named(m, "Service", "mlflow")["spec"]["ports"][0].update(targetPort="web"),
        ),
        ("never lets a node be drained", lambda m: deployment(m)["spec"].update(replicas=1)),
        (
            "FPNAS_STORAGE is s3://x",
            lambda m: named(m, "ConfigMap", "fpnas-storage")["data"].update(FPNAS_STORAGE="s3://x"),
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_found(overlay, problem, change):
    manifests = overlay("eks")
    assert references.check(manifests) == []
    change(manifests)
    assert problem in text(references.check(manifests))


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        (
            "nothing denies by default",
            lambda m: m.remove(named(m, "NetworkPolicy", "default-deny")),
        ),
        ("mlflow: selects no pod", lambda m: deployment(m)["spec"]["template"].update(metadata={})),
        (
            "ingress is open",
            lambda m: named(m, "NetworkPolicy", "mlflow")["spec"]["ingress"][0].pop("from"),
        ),
        (
            "opens port 5001",
            lambda m: named(m, "NetworkPolicy", "mlflow")["spec"]["ingress"][0]["ports"][0].update(
                port=5001
            ),
        ),
        (
            "pods that do not exist",
            lambda m: named(m, "NetworkPolicy", "mlflow")["spec"]["ingress"][0]["from"].append(
                {"podSelector": {"matchLabels": {"app": "nobody"}}}
            ),
        ),
    ],
)
def test_a_policy_that_opens_the_wrong_thing_is_found(overlay, problem, change):
    manifests = overlay("kind")
    assert network.check(manifests) == []
    change(manifests)
    assert problem in text(network.check(manifests))


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("ResourceQuota/fpnas: is missing", lambda m: m.remove(named(m, "ResourceQuota", "fpnas"))),
        (
            "does not limit limits.cpu",
            lambda m: named(m, "ResourceQuota", "fpnas")["spec"]["hard"].pop("limits.cpu"),
        ),
        ("less than half of limits.cpu", lambda m: deployment(m)["spec"].update(replicas=60)),
        (
            "has less pods",
            lambda m: named(m, "ResourceQuota", "fpnas")["spec"]["hard"].update(pods="1"),
        ),
        (
            "than the queues",
            lambda m: named(m, "ResourceQuota", "fpnas")["spec"]["hard"].update(
                {"requests.nvidia.com/gpu": "1"}
            ),
        ),
        (
            "less limits.memory than the queues",
            lambda m: named(m, "ResourceQuota", "fpnas")["spec"]["hard"].update(
                {"limits.memory": "480Gi"}
            ),
        ),
        (
            "is not the pool gpu",
            lambda m: named(m, "ResourceFlavor", "gpu")["spec"].pop("nodeTaints"),
        ),
        (
            "is not the pool cpu",
            lambda m: named(m, "ResourceFlavor", "cpu")["spec"]["nodeLabels"].update(
                {"fpnas.io/pool": "c"}
            ),
        ),
        ("flavor gpu does not exist", lambda m: m.remove(named(m, "ResourceFlavor", "gpu"))),
        (
            "queue does not exist",
            lambda m: named(m, "LocalQueue", "fpnas")["spec"].update(clusterQueue="x"),
        ),
    ],
)
def test_what_does_not_fit_is_found(overlay, problem, change):
    manifests = overlay("onprem")
    assert capacity.check(manifests) == []
    change(manifests)
    assert problem in text(capacity.check(manifests))


def test_the_services_of_a_laptop_are_added_up(overlay):
    total = capacity.services(overlay("kind"))
    # MLflow, PostgreSQL and SeaweedFS 0.25 each, the backup 0.1, the bucket's job 0.05.
    assert float(total["requests.cpu"]) == 0.9
    assert total["persistentvolumeclaims"] == 2
    assert float(total["requests.storage"]) == 120 * 2**30
    assert total["pods"] == 5


@pytest.mark.parametrize(
    ("given", "value"), [("250m", 0.25), ("1Gi", 2**30), ("2", 2), (3, 3), ("1.5k", 1500)]
)
def test_quantities(given, value):
    assert capacity.quantity(given) == value


def test_a_kustomization_that_does_not_build_is_named(tmp_path):
    from fpnas.errors import InputError

    (tmp_path / "kustomization.yaml").write_text("resources: [nothing.yaml]\n")
    with pytest.raises(InputError, match=r"does not build: .*nothing\.yaml"):
        kustomize.build(tmp_path)
