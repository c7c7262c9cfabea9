"""The cluster section: where the parts of a run are placed, and how long to wait for them."""

from enum import StrEnum

from rlvr.config.sections.section import NonNegativeInt, Positive, PositiveInt, Seconds, Section


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
    engines: rollout engines behind Ray; each takes what `rollout.engine_args` asks for (tensor_parallel_size).
    weight_transport: how vLLM engines get weights. auto is nccl if learner and engines have GPUs of their own, ipc if
        they are colocated on one, else file. Any other engine loads files.
    address: address of a running Ray cluster ("auto", or host:port); empty starts one on this machine.
    cpus_per_engine: cores that Ray sets aside for an engine, and threads that it computes with on a CPU.
    verifier_pools: verifier services (Ray actors); 0 means one per node.
    max_learner_restarts, max_engine_restarts: how often a lost learner restarts from its last checkpoint, and how many
        lost engines are restarted, before the run stops.
    heartbeat_deadline_s: an engine or a verifier service that does not answer for this long is replaced.
    start_deadline_s, sync_deadline_s, step_deadline_s: longest wait for an actor to start, for one weight sync, and for
        any other answer; then the run stops and names the component that did not respond.
    """

    backend: Backend = Backend.LOCAL
    learners: PositiveInt = 1
    engines: PositiveInt = 1
    placement: Placement = Placement.DISAGGREGATED
    weight_transport: WeightTransport = WeightTransport.AUTO
    address: str = ""
    cpus_per_engine: Positive = 1.0
    verifier_pools: NonNegativeInt = 0
    max_learner_restarts: NonNegativeInt = 3
    max_engine_restarts: NonNegativeInt = 10
    heartbeat_deadline_s: Seconds = 60.0
    start_deadline_s: Seconds = 600.0
    sync_deadline_s: Seconds = 300.0
    step_deadline_s: Seconds = 3600.0
