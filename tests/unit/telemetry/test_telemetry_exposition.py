"""The text format, read by the parser of Prometheus's own client; the names of families."""

import math
import re

import pytest

from rlvr.telemetry.exposition import exposition
from rlvr.telemetry.families import FAMILIES, Family, Kind, run_metric
from rlvr.telemetry.meters import Meters, Sample

parser = pytest.importorskip("prometheus_client.parser")


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = list(parser.text_string_to_metric_families(text))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_values_and_hostile_labels_survive() -> None:
    hostile = 'a "b" \\ c\n# HELP d {e="f"} 1\ud800'
    family = Family("rlvr_x", Kind.GAUGE, "first\nsecond \\ third")
    values = [math.inf, -math.inf, 1e300, -2.5, 12345678901.0]
    samples = [Sample(family, (("name", f"{n}{hostile}"),), value) for n, value in enumerate(values)]
    found = parsed(exposition([*samples, Sample(family, (("name", "nan"),), math.nan)]))
    shown = hostile.replace("\ud800", "?")
    assert {labels[0][1]: value for (_, labels), value in found.items() if labels[0][1] != "nan"} == {
        f"{n}{shown}": value for n, value in enumerate(values)
    }
    assert math.isnan(found["rlvr_x", (("name", "nan"),)])


def test_a_family_that_two_processes_have_is_one_group_and_a_series_appears_once() -> None:
    step, cpus = FAMILIES["rlvr_run_step"], FAMILIES["rlvr_node_cpus"]
    text = exposition([Sample(step, (), 1.0), Sample(cpus, (), 2.0), Sample(step, (), 3.0)])
    assert text.count("# TYPE rlvr_run_step gauge") == 1
    assert parsed(text) == {("rlvr_run_step", ()): 3.0, ("rlvr_node_cpus", ()): 2.0}


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"rlvr_[a-z][a-z0-9_]*", name)
        assert name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.help
        assert not re.search(r"_(s|ms|gb|mb|percent)(_|$)", name)


@pytest.mark.parametrize(
    ("metric", "name", "labels", "scale"),
    [
        ("reward/mean", "rlvr_reward_mean", {}, 1.0),
        ("time/step_s", "rlvr_time_step_seconds", {}, 1.0),
        ("rollout/tokens_per_s", "rlvr_rollout_tokens_per_second", {}, 1.0),
        ("learner/peak_memory_gb", "rlvr_learner_peak_memory_bytes", {}, 1e9),
        ("eval/a b/pass@1_ci_low", "rlvr_eval_pass_at_1_ci_low", {"source": "a b"}, 1.0),
        ("eval/x/check/c/pass_rate", "rlvr_eval_check_pass_rate", {"source": "x", "check": "c"}, 1.0),
        ("check/a/b/mean_score", "rlvr_check_mean_score", {"check": "a/b"}, 1.0),
        ("verifier/method_number_rate", "rlvr_verifier_method_rate", {"method": "number"}, 1.0),
        ("step", "rlvr_step", {}, 1.0),
    ],
)
def test_a_metric_of_the_run_becomes_a_gauge_in_base_units(
    metric: str, name: str, labels: dict[str, str], scale: float
) -> None:
    found = run_metric(metric)
    assert (found.family.name, dict(found.labels), found.scale) == (name, labels, scale)


def test_counters_grow_gauges_are_replaced_and_a_source_is_asked_when_they_are_read() -> None:
    meters = Meters()
    meters.add("run_tokens_total", 3)
    meters.add("run_tokens_total", 4)
    meters.set("run_step", 1)
    meters.set("run_step", 2)
    meters.watch("a", lambda: [("node_cpus", {}, 8.0)])
    assert [(s.family.name, s.value) for s in meters.read()] == [
        ("rlvr_node_cpus", 8.0), ("rlvr_run_step", 2.0), ("rlvr_run_tokens_total", 7.0),
    ]  # fmt: skip


def test_a_source_that_fails_costs_its_own_numbers_only(caplog: pytest.LogCaptureFixture) -> None:
    meters = Meters()
    meters.watch("bad", lambda: 1 / 0)  # type: ignore[arg-type, return-value] # it raises before it returns
    meters.set("run_step", 2)
    assert [s.value for s in meters.read() + meters.read()] == [2.0, 2.0]
    assert caplog.text.count("a metric could not be read (ZeroDivisionError") == 1


def test_names_that_never_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.telemetry.meters._MOST_SERIES", 10)
    meters = Meters()
    meters.run_metrics({f"check/{n}/pass_rate": 1.0 for n in range(100)})
    assert len(meters.read()) == 10
