"""The layout of the fixed ports."""

import pytest

from rlvr.errors import ConfigError
from rlvr.ports import PortLayout, layout_here


def test_no_port_has_two_uses() -> None:
    layout = PortLayout(6379)
    single = [
        layout.first, layout.node_manager, layout.object_manager, layout.agent_http, layout.agent_grpc,
        layout.runtime_env_agent, layout.ray_metrics, layout.metrics, layout.ray_client, layout.dashboard,
    ]  # fmt: skip
    used = [*single, *layout.rendezvous, *layout.workers]
    assert len(set(used)) == len(used)
    assert (min(used), max(used)) == (6379, 7478) == (layout.first, layout.last)


def test_a_process_outside_of_a_node_has_no_layout() -> None:
    assert layout_here({}) is None
    assert layout_here({"RLVR_PORT": "7000"}) == PortLayout(7000)


@pytest.mark.parametrize("text", ["x", "-1", "80", "65000", "1e4"])
def test_a_port_without_room_for_the_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"RLVR_PORT=.* must be a port from 1024 to 64436"):
        layout_here({"RLVR_PORT": text})
