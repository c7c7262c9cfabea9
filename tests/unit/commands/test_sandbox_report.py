"""`rlvr sandboxes` and the sandbox part of `rlvr doctor`."""

import pytest
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.commands.doctor import examine
from rlvr.commands.sandbox_report import describe, listing_rows, probe_rows
from rlvr_sandboxes.landlock import LandlockSandbox
from rlvr_sandboxes.namespaces import NamespacesSandbox
from rlvr_sandboxes.outside.probes import Probe

BACKENDS = (NamespacesSandbox, LandlockSandbox)


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both local backends say that this machine lacks what they need."""
    for backend in BACKENDS:
        probe = Probe(name=f"{backend.name} wall", is_ok=False, detail="absent", fix=f"build {backend.name}")
        monkeypatch.setattr(backend, "probes", classmethod(lambda cls, probe=probe: (probe,)))


@pytest.fixture
def one_thing_would_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(name="comfort", is_ok=False, detail="absent", fix="buy it", is_required=False)
    for backend in BACKENDS:
        monkeypatch.setattr(backend, "probes", classmethod(lambda cls: (probe,)))


def test_every_sandbox_is_listed_with_what_it_does_not_stop() -> None:
    rows = {name: (state, text) for name, state, text in listing_rows()}
    assert set(rows) >= {"auto", "namespaces", "landlock", "remote", "docker", "unsafe"}
    assert rows["auto"][0] == "chooses"
    assert rows["unsafe"][1].startswith("Stops nothing")
    assert all(text for _, text in rows.values())


@pytest.mark.usefixtures("nothing_works")
def test_what_is_missing_is_named_with_its_fix() -> None:
    rows = {name: state for name, state, _ in listing_rows()}
    assert rows["namespaces"] == "lacks namespaces wall"
    assert ("landlock wall", "-- absent", "build landlock") in probe_rows()


@pytest.mark.usefixtures("one_thing_would_be_better")
def test_what_would_only_be_better_is_no_fault() -> None:
    assert dict((name, state) for name, state, _ in listing_rows())["namespaces"] == "ready"  # noqa: C402
    assert probe_rows() == [("comfort", ".. absent", "buy it")]  # each thing once


@pytest.mark.usefixtures("nothing_works")
def test_the_doctor_says_that_no_isolation_works_and_training_still_can_run() -> None:
    findings = {finding.name: finding for finding in examine()}
    auto = findings["sandbox auto"]
    assert not auto.is_ok
    assert not auto.is_required
    assert "build namespaces" in auto.fix
    assert "build landlock" in auto.fix
    assert findings["sandbox: landlock wall"].fix == "build landlock"
    assert not findings["sandbox: landlock wall"].is_ok


@pytest.mark.usefixtures("nothing_works")
def test_showing_a_sandbox_that_does_not_work_exits_with_1() -> None:
    done = CliRunner().invoke(app, ["sandboxes", "show", "auto"])
    assert done.exit_code == 1
    assert "no isolation works on this machine" in done.output
    assert "build namespaces" in done.output


def test_showing_a_sandbox_tells_its_settings_and_what_it_can_do() -> None:
    described = describe("remote")
    rows = {name: value for name, value, _ in described.rows}
    assert rows["can"] == "runs only"
    assert rows["setting url"] == "required"
    assert described.is_usable  # nothing speaks against it
    assert "proven" in described.text
    done = CliRunner().invoke(app, ["sandboxes"])
    assert done.exit_code == 0
    assert "namespaces" in done.output
