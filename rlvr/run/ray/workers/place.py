"""Where an actor runs."""

import os
from dataclasses import dataclass

import ray


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlace:
    """The id of an actor's node, and a text for messages."""

    node: str
    text: str


def place_here() -> ActorPlace:
    """The place of the actor that calls it."""
    text = f"node {ray.util.get_node_ip_address()}, process {os.getpid()}"
    return ActorPlace(node=ray.get_runtime_context().get_node_id(), text=text)
