"""The Kubernetes manifests render, and the numbers in them are the programs' own defaults."""

import subprocess

import msgspec
import pytest
import yaml

from cloud_core.config import Settings as CloudSettings
from edge_agent.config import Settings as EdgeSettings
from shared.serving.faces.grpc_site import port_for
from tests.architecture.laws import ROOT

KUBEEDGE = ROOT / "deploy" / "kubeedge"


def rendered(folder: str) -> list[dict]:
    done = subprocess.run(["kubectl", "kustomize", KUBEEDGE / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def named(documents: list[dict], kind: str, name: str) -> dict:
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"].startswith(name))


def containers(documents: list[dict]):
    for document in documents:
        if document["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}:
            for container in document["spec"]["template"]["spec"]["containers"]:
                yield document, container


@pytest.fixture(scope="module")
def base() -> list[dict]:
    return rendered("base")


def test_the_base_has_every_process(base):
    workloads = {(d["kind"], d["metadata"]["name"]) for d, _ in containers(base)}
    deployments = {("Deployment", name) for name in ("api", "gateway", "loops", "broker", "replica")}
    assert workloads == deployments | {("DaemonSet", "edge-agent")}


@pytest.mark.parametrize("overlay", ["overlays/postgres", "overlays/single-node"])
def test_every_overlay_renders(overlay):
    documents = rendered(overlay)
    assert named(documents, "DaemonSet", "edge-agent")


def test_numbers_are_the_defaults(base):
    cloud, edge = CloudSettings(), EdgeSettings()
    ports = {
        container["name"]: [port["containerPort"] for port in container.get("ports", [])]
        for _, container in containers(base)
    }
    assert ports["api"] == [cloud.api_port]
    assert ports["broker"] == [cloud.mqtt_port]
    data = named(base, "ConfigMap", "cloud-core")["data"]
    gateway, edges = (cloud.gateway_port, cloud.gateway_grpc_port), (edge.port, edge.grpc_port)
    grpc = [port_for(asked, http) for http, asked in (cloud.replica_ports(0), edges, gateway)]
    assert grpc == [8201, 8091, 8082]
    assert ports["gateway"] == [cloud.gateway_port, grpc[2]]
    assert data["CLOUD_CORE_GATEWAY_GRPC_PORT"] == str(grpc[2])
    assert ports["replica"] == [cloud.replica_port, grpc[0]]
    assert ports["edge-agent"] == [edge.port, grpc[1]]
    policy = named(base, "NetworkPolicy", "replica")["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in policy] == ports["replica"]
    for name in ("api_port", "gateway_port", "replica_port", "mqtt_port"):
        assert data[f"CLOUD_CORE_{name.upper()}"] == str(getattr(cloud, name))
    assert data["CLOUD_CORE_REPLICA_GRPC_PORT"] == str(grpc[0])
    device = named(base, "ConfigMap", "edge-agent")["data"]
    assert (device["EDGE_AGENT_PORT"], device["EDGE_AGENT_GRPC_PORT"]) == (str(edge.port), str(grpc[1]))


@pytest.mark.parametrize("folder", ["base", "overlays/single-node"])
def test_every_service_leads_to_the_process_it_names(folder):
    """In one pod with everything, a name such as `http` is another process's port."""
    documents, cloud = rendered(folder), CloudSettings()
    expected = {"api": [cloud.api_port], "gateway": [8081, 8082], "broker": [cloud.mqtt_port]}
    for name, numbers in expected.items():
        spec = named(documents, "Service", name)["spec"]
        (pod,) = [
            container
            for document, container in containers(documents)
            if document["spec"]["selector"]["matchLabels"].items() >= spec["selector"].items()
        ]
        ports = {port["name"]: port["containerPort"] for port in pod["ports"]}
        assert [ports.get(port["targetPort"], port["targetPort"]) for port in spec["ports"]] == numbers, name


@pytest.mark.parametrize("folder", ["base", "overlays/postgres", "overlays/single-node"])
def test_every_setting_named_is_a_setting(folder):
    known = {f"CLOUD_CORE_{name.upper()}" for name in CloudSettings.__struct_fields__}
    known |= {f"EDGE_AGENT_{name.upper()}" for name in EdgeSettings.__struct_fields__}
    documents = rendered(folder)
    used = {name for d in documents if d["kind"] == "ConfigMap" for name in d["data"]}
    for _, container in containers(documents):
        used |= {entry["name"] for entry in container.get("env", []) if entry["name"].startswith(("CLOUD_", "EDGE_"))}
    assert used <= known
    for d in documents:
        if d["kind"] == "ConfigMap":
            into, prefix = (
                (CloudSettings, "CLOUD_CORE_") if "cloud" in d["metadata"]["name"] else (EdgeSettings, "EDGE_AGENT_")
            )
            msgspec.convert({k.removeprefix(prefix).lower(): v for k, v in d["data"].items()}, into, strict=False)


def test_every_cloud_container_runs_unprivileged(base):
    for document, container in containers(base):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, document["metadata"]["name"]
        assert context["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("unit", ["cloud-core", "edge-agent"])
def test_units_start_installed_programs_with_known_settings(unit):
    text = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text()
    assert f"/bin/{unit} " in text
    settings = CloudSettings if unit == "cloud-core" else EdgeSettings
    prefix = "CLOUD_CORE_" if unit == "cloud-core" else "EDGE_AGENT_"
    named_in_unit = [
        line.removeprefix("Environment=").split("=")[0] for line in text.splitlines() if line.startswith("Environment=")
    ]
    assert named_in_unit
    assert all(name.removeprefix(prefix).lower() in settings.__struct_fields__ for name in named_in_unit)


def test_no_pod_is_told_of_services_by_environment(base):
    """Kubernetes would set CLOUD_CORE_PORT for a service called cloud-core, and the programs refuse settings they do not know."""
    for document, _ in [*containers(base), *containers(rendered("overlays/single-node"))]:
        if document["metadata"]["name"] != "postgres":
            assert document["spec"]["template"]["spec"]["enableServiceLinks"] is False, document["metadata"]["name"]
