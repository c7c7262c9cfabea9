"""The group of processes that one broadcast reaches, and where they meet."""

from dataclasses import dataclass

BUFFER_BYTES = 256 << 20
LEARNER = "the learner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Where the members of a group meet, and what both sides must agree on.

    address, port: of the store in the learner's process, which is rank 0.
    names: the owner of each rank, for messages; an engine with several workers occurs several times.
    token: a random number that rank 0 broadcasts first, so that a communicator that carries nothing is noticed.
    buffer_bytes: a chunk is sent as soon as it holds more than this.
    deadline_s: for the join, and for each broadcast of a version.
    """

    address: str
    port: int
    names: tuple[str, ...]
    token: int
    deadline_s: float
    buffer_bytes: int = BUFFER_BYTES

    @property
    def size(self) -> int:
        """The number of ranks."""
        return len(self.names)
