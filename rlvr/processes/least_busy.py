"""Assigns groups of work to the least busy members of a fleet."""

import heapq
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from rlvr.processes.members import Member, Work

MemberT = TypeVar("MemberT", bound=Member[Any])


class LeastBusy(Generic[MemberT]):
    """The members in the order of their open cost, the first of equals first, while groups are assigned.

    It looks at each member once, and then takes logarithmic time for a group. It does not follow changes that others
    make, so it is made anew for the groups of one turn of the loop.
    """

    def __init__(self, members: Sequence[MemberT]) -> None:
        """Args: members: at least one."""
        self._heap = [(member.open_cost, index, member) for index, member in enumerate(members)]
        heapq.heapify(self._heap)

    def assign(self, group: Sequence[Work]) -> MemberT:
        """The member that has taken the group."""
        _, index, member = self._heap[0]
        for work in group:
            member.take(work)
        heapq.heapreplace(self._heap, (member.open_cost, index, member))
        return member
