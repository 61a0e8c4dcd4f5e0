"""`/metrics` and `/metrics/json` of a device that has no cloud."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.edge_agent.test_agent import INPUT, program, running


def test_both_faces_of_the_metrics_say_the_same_without_a_cloud(tmp_path: Path) -> None:
    model = str(program(tmp_path / "double.onnx"))
    with running("serve", model, "--port", "0", folder=tmp_path) as agent:
        for _ in range(3):
            assert agent.ask("POST", "/v2/models/double/infer", INPUT)[0] == 200
        code, headers, text = agent.ask("GET", "/metrics")
        assert (code, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        code, _, listed = agent.ask("GET", "/metrics/json")
        assert code == 200
        assert {"tideline_requests", "tideline_queue_seconds", "tideline_route", "tideline_cache"} <= set(listed)
        assert set(families) >= set(listed)
        for name in ("tideline_compute_seconds", "tideline_queue_seconds", "tideline_batch_size"):
            (counted,) = [each.value for each in families[name].samples if each.name == f"{name}_count"]
            assert counted == 3
            buckets = [each.value for each in families[name].samples if each.name == f"{name}_bucket"]
            assert buckets == sorted(buckets)
            assert len(buckets) == len([each for each in listed[name]["samples"] if each["name"] == f"{name}_bucket"])
            # The finer grid that telemetry reads is not shown.
            assert len(buckets) < 20
