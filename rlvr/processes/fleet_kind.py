"""What a kind of supervised fleet says of its members; engines and verifier pools are two kinds."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any, ClassVar, Generic

from rlvr.errors import RlvrError
from rlvr.processes.members import MemberState, MemberT, Work


class FleetKind(ABC, Generic[MemberT]):
    """How members are started, asked, prepared and ended.

    A kind of fleet says what its members are called in events (`kind`) and in messages (`noun`), what they are for
    (`purpose`), which errors its callers expect, and on how many members work is tried (`max_attempts`).
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    purpose: ClassVar[str]
    error: ClassVar[type[RlvrError]]
    lost: ClassVar[type[RlvrError]]
    max_attempts: ClassVar[int]

    @abstractmethod
    async def spawn(self, name: str) -> MemberT:
        """Starts a member and waits until it answers. Raises RlvrError."""

    @abstractmethod
    def serve(self, member: MemberT, share: Sequence[Work]) -> AsyncIterator[tuple[Hashable, Any]]:
        """Has the member work: yields key and answer of each item. Raises RlvrError."""

    @abstractmethod
    async def ask_health(self, member: MemberT) -> None:
        """Returns when the member says that it is well. Raises RlvrError."""

    async def prepare(self, member: MemberT) -> bool:
        """Makes a restarted member HEALTHY, or lost; returns whether it may join."""
        member.state = MemberState.HEALTHY
        return True

    async def place(self, name: str) -> None:
        """Returns when there are resources for the member. Waits as long as it takes; raises RlvrError."""

    def vacate(self, name: str) -> None:
        """Called when a member has left a node that is drained: frees its place."""

    def facts(self, member: MemberT) -> dict[str, Any]:
        """What the event of a member that joins says further."""
        return {}

    async def may_start(self) -> None:
        """Returns when a member may be restarted."""

    def is_loss(self, error: RlvrError) -> bool:
        """Whether an error of `serve` means that the member is lost; otherwise it is the answer to its share."""
        return True

    @abstractmethod
    def spent(self, work: Work) -> RlvrError:
        """The error for work that was tried on `max_attempts` members."""

    async def end(self, member: MemberT) -> None:
        """Ends a member that nobody uses any more."""
        await member.remote.kill()

    def settle(self) -> None:
        """Called when a node can be used from now on, and when a member has joined, as a node may come meanwhile."""
