"""Prometheus and Grafana: every expression names a metric that an endpoint exports, and the files fit together."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.prometheus import local_targets, scrape_targets
from rlvr.telemetry.families import FAMILIES, run_metric

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docker" / "observability"
NAME = re.compile(r"\brlvr_[a-z0-9_]+")


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "grafana" / "rlvr.json").read_text(encoding="utf-8"))


def expressions() -> list[str]:
    found = dashboard()
    of_panels = [target["expr"] for panel in found["panels"] for target in panel.get("targets", [])]
    variables = [v["query"]["query"] for v in found["templating"]["list"] if isinstance(v["query"], dict)]
    return of_panels + variables


def exported() -> dict[str, set[str]]:
    """The labels of every family: the fixed ones, and those of the glossary of metrics.jsonl."""
    known = {name: {"run", "recipe", *family.labels} for name, family in FAMILIES.items()}
    area = ""
    for line in (ROOT / "rlvr" / "README.md").read_text(encoding="utf-8").splitlines():
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []:
            area = name.rpartition("/")[0] if "/" in name else area
            found = run_metric(name if "/" in name else f"{area}/{name}")
            known[found.family.name] = {"run", "recipe", *found.family.labels}
    return known


def test_every_expression_names_metrics_that_exist_with_labels_that_they_have() -> None:
    known = exported()
    assert len(expressions()) > 60
    for expression in expressions():
        names = NAME.findall(expression)
        assert names, expression
        assert [name for name in names if name not in known] == []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"instance"}
            for name in NAME.findall(target["expr"]):
                has_sum = "sum by" in target["expr"]
                assert has_sum or labels <= known[name], (target, known[name])


def test_the_dashboard_shows_every_fixed_family_of_engines_pools_and_nodes() -> None:
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    of_parts = {name for name in FAMILIES if re.match(r"rlvr_(engine|verifier_pool|learner_rank|node|ray)_", name)}
    assert of_parts - shown == {"rlvr_engine_completions_total", "rlvr_engine_syncs_total"}


def test_the_dashboard_can_be_imported() -> None:
    found = dashboard()
    assert found["schemaVersion"] == 39
    identifiers = [panel["id"] for panel in found["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {panel["title"] for panel in found["panels"] if panel["type"] == "row"} == {
        "Run", "Engines", "Verifiers", "Learner and processes", "Nodes",
    }  # fmt: skip
    for panel in found["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_the_targets_of_an_inventory_are_its_private_addresses_and_the_reserved_port() -> None:
    inventory = Inventory.model_validate(
        {"name": "c", "image": "i", "shared": "/s", "port": 7000,
         "hosts": [{"name": "a", "ssh": "a", "address": "10.0.0.1"}, {"name": "b", "ssh": "b", "address": "10.0.0.2"}]}
    )  # fmt: skip
    assert yaml.safe_load(scrape_targets(inventory)) == [
        {"targets": ["10.0.0.1:7007"], "labels": {"cluster": "c", "host": "a"}},
        {"targets": ["10.0.0.2:7007"], "labels": {"cluster": "c", "host": "b"}},
    ]
    assert yaml.safe_load(scrape_targets(inventory, port=9000))[0]["targets"] == ["10.0.0.1:9000"]
    assert yaml.safe_load(local_targets([9000, 9001]))[0]["targets"] == ["127.0.0.1:9000", "127.0.0.1:9001"]


def test_ipv6_addresses_are_bracketed() -> None:
    inventory = Inventory.model_validate({"image": "i", "shared": "/s", "hosts": [{"name": "a", "address": "fd00::1"}]})
    assert yaml.safe_load(scrape_targets(inventory))[0]["targets"] == ["[fd00::1]:6386"]


def test_the_compose_file_mounts_what_is_there_and_publishes_to_this_machine_alone() -> None:
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    for service in found["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / "docker" / source).exists(), source
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not service["image"].endswith(":latest")
    base = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
    (scrape,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert set(scrape["dns_sd_configs"][0]["names"]) <= set(base["services"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_its_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(FOLDER / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
