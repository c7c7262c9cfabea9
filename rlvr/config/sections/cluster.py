"""The cluster section: where the parts of a run are placed, and how long to wait for them."""

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rlvr.config.sections.section import MOST_SECONDS, NonNegativeInt, Positive, PositiveInt, Seconds, Section

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"(?i)(TOKEN|KEY|PASSWORD|PASSWD|SECRET|CREDENTIALS?)(_|$)")
_LOGIN = re.compile(r"://[^/@\s]+@")  # https://user:password@host
_NOT_OURS = {
    "CUDA_VISIBLE_DEVICES": "the placement of learner and engines decides it",
    "PYTHONPATH": "each node uses its own installation; install rlvr and plugins there",
}


def is_secret(name: str, value: str = "") -> bool:
    """Whether the variable probably holds a secret: by its name, or because the value is a URL with a login.

    >>> is_secret("HF_TOKEN"), is_secret("NCCL_DEBUG", "INFO"), is_secret("HTTPS_PROXY", "http://me:pw@proxy:3128")
    (True, False, True)
    """
    return bool(_SECRET_NAME.search(name) or _LOGIN.search(value))


def _number_as_text(value: Any) -> Any:
    """`NCCL_NSOCKS_PERTHREAD: 4` is the text "4", as in a shell."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _usable(variables: dict[str, str | None]) -> dict[str, str | None]:
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if name in _NOT_OURS or name.startswith("RAY_"):
            reason = _NOT_OURS.get(name, "the nodes of the cluster were started with their own settings of Ray")
            raise ValueError(f"{name} cannot be set: {reason}")
        if value is not None and is_secret(name, value):
            raise ValueError(
                f"{name} looks like a secret, and a recipe is copied into every run directory; leave its value empty "
                f"(`{name}:` in YAML, `cluster.env.{name}=null` on the command line) to take it from the environment "
                "of `rlvr train`"
            )
    return variables


VariableValue = Annotated[str | None, BeforeValidator(_number_as_text)]
Variables = Annotated[dict[str, VariableValue], AfterValidator(_usable)]


class Backend(StrEnum):
    """What starts the parts of a run and carries messages between them."""

    LOCAL = "local"  # this process and the ranks that it starts
    RAY = "ray"  # actors of a Ray cluster; without an address one is started on this machine


class Placement(StrEnum):
    """Whether engines and the learner share devices."""

    DISAGGREGATED = "disaggregated"  # engines have devices of their own
    COLOCATED = "colocated"  # engines sleep while the learner trains on their devices


class WeightTransport(StrEnum):
    """How weights travel from the learner to vLLM engines."""

    AUTO = "auto"  # the fastest that the placement allows; `file` on a CPU
    FILE = "file"  # a file in shared memory, copied to engines on other nodes
    NCCL = "nccl"  # broadcast from the learner's GPU to those of the engines
    IPC = "ipc"  # through memory of the GPU that learner and engine share (colocated)


class ClusterConfig(Section):
    """Where the parts of a run are placed. Moving a recipe to another cluster changes only this section.

    learners: processes that share one optimiser step (its result does not depend on them).
    learners_per_node: how many of them run on one node at most; 0 means as many as a node has GPUs, and all on a CPU.
        Learners on several nodes exchange weights and gradients over the network, so keep them on as few as possible.
    engines: rollout engines behind Ray; each takes tensor_parallel_size x pipeline_parallel_size GPUs
        (`rollout.engine_args`).
    weight_transport: how vLLM engines get weights. auto is nccl if learner and engines have GPUs of their own, ipc if
        they are colocated on one, else file. Any other engine loads files.
    address: address of a running Ray cluster ("auto", or host:port); empty starts one on this machine.
    wait_for_nodes_s: how long the run asks a running cluster for resources that its nodes do not have yet, so that an
        autoscaler can add nodes; 0 refuses at once.
    env: environment variables of every actor on every node. NAME: null takes the value from the environment of
        `rlvr train`; a secret (a token, a key, a password) is accepted only in this way and is written nowhere.
    cpus_per_engine: cores that Ray sets aside for an engine, and threads that it computes with on a CPU.
    verifier_pools: verifier services (Ray actors); 0 means one per node.
    max_learner_restarts, max_engine_restarts: how often a lost learner restarts from its last checkpoint, and how many
        lost engines are restarted, before the run stops. An engine that is lost together with its node is not counted,
        unless it had answered nothing.
    heartbeat_deadline_s: an engine or a verifier service that does not answer for this long is replaced.
    start_deadline_s, sync_deadline_s, step_deadline_s: longest wait for an actor to start, for one weight sync, and for
        any other answer; then the run stops and names the component that did not respond.
    """

    backend: Backend = Backend.LOCAL
    learners: PositiveInt = 1
    learners_per_node: NonNegativeInt = 0
    engines: PositiveInt = 1
    placement: Placement = Placement.DISAGGREGATED
    weight_transport: WeightTransport = WeightTransport.AUTO
    address: str = ""
    wait_for_nodes_s: Annotated[float, Field(ge=0.0, le=MOST_SECONDS)] = 0.0
    env: Variables = Field(default_factory=dict[str, str | None])
    cpus_per_engine: Positive = 1.0
    verifier_pools: NonNegativeInt = 0
    max_learner_restarts: NonNegativeInt = 3
    max_engine_restarts: NonNegativeInt = 10
    heartbeat_deadline_s: Seconds = 60.0
    start_deadline_s: Seconds = 600.0
    sync_deadline_s: Seconds = 300.0
    step_deadline_s: Seconds = 3600.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.address.startswith("ray://"):
            raise ValueError(
                f"address={self.address!r} is an address of Ray Client, which keeps this process outside the cluster: "
                "it could neither place actors on named nodes nor share a run directory with them. Start the run on a "
                "node of the cluster with cluster.address=auto, or submit it: `ray job submit --address "
                "http://HEAD:8265 -- rlvr train RECIPE cluster.address=auto`"
            )
        return self
