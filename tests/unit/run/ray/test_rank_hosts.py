"""Ranks of a learner behind a host, as on another node, without Ray: calls run in threads, the ranks are real."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("ray")
from rlvr.config.recipe import ModelConfig
from rlvr.errors import ConfigError, RankLost
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.learner.ranks.loading import weight_source
from rlvr.models.policy import load_weightless
from rlvr.records import Transport
from rlvr.run.ray.workers import rank_handle, rank_host
from rlvr.run.ray.workers.rank_handle import FarBundle, RankHosts
from rlvr.run.ray.workers.rank_host import RankHost
from tests.unit.learner.group_cases import CONFIG, TIMING, TINY, make_batch, start_group

MODEL = ModelConfig(tiny=TINY)


class Call:
    """A method of a host, called as Ray does."""

    def __init__(self, method: Callable[..., Any], run: Callable[[Callable[[], Any]], "Future[Any]"]) -> None:
        self._method = method
        self._run = run

    def remote(self, *arguments: Any, **named: Any) -> "Future[Any]":
        return self._run(lambda: self._method(*arguments, **named))

    def options(self, **_options: Any) -> Any:
        return SimpleNamespace(remote=self._stream)

    def _stream(self, *arguments: Any) -> Iterator["Future[Any]"]:
        for item in self._method(*arguments):
            done: Future[Any] = Future()
            done.set_result(item)
            yield done


class Host:
    """The plain class of the actor in this process; one thread starts ranks, as they end with it."""

    def __init__(self, *arguments: Any) -> None:
        self._host = RankHost.__ray_metadata__.modified_class(*arguments)  # type: ignore[attr-defined] # an actor class

    def __getattr__(self, name: str) -> Call:
        return Call(getattr(self._host, name), self._run)

    def kill(self) -> None:
        for process in self._host._ranks.values():
            process.kill()

    @staticmethod
    def _run(function: Callable[[], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(function())
        return done


def get(asked: Any, timeout: float | None = None) -> Any:
    return [one.result(timeout) for one in asked] if isinstance(asked, list) else asked.result(timeout)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> RankHosts:
    """One host of two ranks."""
    monkeypatch.setattr(rank_handle, "RankHost", SimpleNamespace(options=lambda **_: SimpleNamespace(remote=Host)))
    monkeypatch.setattr(rank_handle.ray, "get", get)
    monkeypatch.setattr(rank_handle.ray, "kill", lambda host: host.kill())
    monkeypatch.setattr(rank_host.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    recipe = SimpleNamespace(model=MODEL, learner=CONFIG)
    return RankHosts(recipe, [FarBundle(num_ranks=2, options={})])  # type: ignore[arg-type] # what it reads of one


def group_of(hosts: RankHosts, folder: Path, *, num_ranks: int = 3, silence_s: float = 60.0) -> LearnerGroup:
    """Three ranks, two of them behind the host; or `num_ranks` of this node."""
    outline = load_weightless(MODEL, seed=3)
    return start_group(
        num_ranks,
        folder,
        policy=outline,
        transport=Transport.FILE,
        reference=None,
        published_dtype=torch.float32,
        weights_folder=folder / "weights",
        source=weight_source(MODEL, outline.model, seed=3),
        device_type="cpu",
        silence_s=silence_s,
        spread=hosts.spread() if num_ranks == 3 else None,
    )


@pytest.mark.slow
def test_ranks_behind_a_host_learn_what_ranks_of_this_node_learn_and_end_together(hosts: RankHosts, tmp_path: Path):
    assert hosts.addresses() == ["127.0.0.1"]
    assert rank_host.interface_of("127.0.0.1") == "lo"
    with group_of(hosts, tmp_path / "far") as far, group_of(hosts, tmp_path / "near", num_ranks=2) as near:
        pids = far.pids
        assert len(set(pids)) == 3
        for seed in range(2):
            expected, found = near.step(make_batch(seed=seed)).metrics, far.step(make_batch(seed=seed)).metrics
            for name in set(expected) - TIMING:
                assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        scores = [group.score([[4, 5, 6, 7], [5, 6, 7]]) for group in (far, near)]
        assert scores[0] == [pytest.approx(row, abs=1e-6) for row in scores[1]]
        os.kill(pids[2], signal.SIGSTOP)  # so that the others wait for it in the middle of the step
        threading.Timer(1.0, os.kill, (pids[2], signal.SIGKILL)).start()
        with pytest.raises(RankLost, match=r"rank 2 of 3 ended \(signal SIGKILL\) during accumulate"):
            far.step(make_batch())
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_a_silent_rank_behind_a_host_is_found(hosts: RankHosts, tmp_path: Path):
    with group_of(hosts, tmp_path, silence_s=3.0) as group:
        os.kill(group.pids[1], signal.SIGSTOP)
        with pytest.raises(RankLost, match=r"rank 1 of 3 gave no sign of life for \d+ s and does not react"):
            group.step(make_batch())


def test_a_host_without_the_run_directory_or_devices_is_refused(hosts: RankHosts, tmp_path: Path):
    hosts.require(is_on_cuda=False, run_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"node 127\.0\.0\.1 does not see the run directory /nowhere; .*--run-dir"):
        hosts.require(is_on_cuda=False, run_dir="/nowhere")
    with pytest.raises(ConfigError, match="has 0 CUDA devices, 2 learners were to run there"):
        hosts.require(is_on_cuda=True, run_dir=str(tmp_path))


def test_an_address_that_no_interface_has_is_explained():
    with pytest.raises(Exception, match=r"no network interface of this node has the address 192\.0\.2\.1"):
        rank_host.interface_of("192.0.2.1")
