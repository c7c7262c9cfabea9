"""Calls to an actor: each has a deadline, an owner, and errors that say what happened."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as ray_errors

from rlvr.errors import RankLost, RlvrError
from rlvr.run.ray.actor_logs import last_lines
from rlvr.run.ray.watch import WaitBoard
from rlvr.run.step.failures import LearnerLost

STACKS_S = 5.0  # time for an unresponsive actor to return its stacks
_KILLED_BY_US = "ray.kill"  # in Ray's reason; then the log has no cause
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
Lost = Callable[[str], RlvrError]


class PutOnce:
    """An argument that many actors get: Ray pickles it once for all of them, and sends it to each node once."""

    def __init__(self) -> None:
        self._value: Any = None
        self._object: Any = None

    def of(self, value: Any) -> Any:
        """What to pass to the actors' methods instead of the value; made anew when another value than last comes."""
        if self._object is None or value is not self._value:
            self._value, self._object = value, ray.put(value)
        return self._object


class Calls:
    """Calls one actor for one owner."""

    def __init__(self, actor: Any, *, name: str, owner: str, board: WaitBoard, lost: Lost) -> None:
        """Args:
        name: of the actor, for messages.
        owner: the component that waits.
        lost: makes the error for a dead actor, from the reason.
        """
        self.actor = actor
        self._actor_id = actor._actor_id.hex()
        self._name = name
        self._owner = owner
        self._board = board
        self._lost = lost

    def now(self, method: str, *arguments: Any, what: str, deadline_s: float, **named: Any) -> Any:
        """Calls the method and returns its result; blocks this thread.

        Raises: WaitExpired after the deadline; the error of `lost` when the actor is dead; what the method raised.
        """
        with self._board.wait(self._owner, on=self._name, what=what, deadline_s=deadline_s) as wait:
            try:
                return ray.get(getattr(self.actor, method).remote(*arguments, **named), timeout=deadline_s)
            except ray_errors.GetTimeoutError as error:
                raise self._board.expired(wait, stacks=self._stacks()) from error
            except ray_errors.RayError as error:
                raise self.meaning(error) from error

    async def later(self, method: str, *arguments: Any, what: str, deadline_s: float) -> Any:
        """Calls the method and returns its result without blocking the event loop. Raises as `now` does."""
        with self._board.wait(self._owner, on=self._name, what=what, deadline_s=deadline_s) as wait:
            try:
                async with asyncio.timeout(deadline_s):
                    return await getattr(self.actor, method).remote(*arguments)
            except TimeoutError as error:
                stacks = await asyncio.to_thread(self._stacks)
                raise self._board.expired(wait, stacks=stacks) from error
            except ray_errors.RayError as error:
                raise await self.meaning_later(error) from error

    async def meaning_later(self, error: ray_errors.RayError) -> RlvrError:
        """Like `meaning`, without blocking the event loop."""
        return await asyncio.to_thread(self.meaning, error)

    def meaning(self, error: ray_errors.RayError) -> RlvrError:
        """Converts an exception of Ray into one of ours: the actor or a rank of it is dead, or its method raised.

        A dead actor's error ends with the last lines of its log. Blocks for seconds when it ran on another node.
        """
        if isinstance(error, ray_errors.RayTaskError):
            cause = error.cause
            if isinstance(cause, RankLost):
                return LearnerLost(str(cause))
            if isinstance(cause, RlvrError):
                return cause
            traceback = _COLOUR.sub("", str(error))  # the actor's own
            return RlvrError(f"{self._name} failed: {type(cause).__name__}: {cause}\n{traceback}")
        reason = reason_of(error)
        log = "" if _KILLED_BY_US in str(error) else last_lines(self._actor_id)
        return self._lost(f"{reason}\n{log}" if log else reason)

    def _stacks(self) -> str:
        try:
            return ray.get(self.actor.stacks.remote(), timeout=STACKS_S)
        except ray_errors.RayError:
            return ""


def reason_of(error: ray_errors.RayError) -> str:
    """Ray's reason why an actor is dead, on one line, without its advice."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    dull = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:")
    text = " ".join(line for line in lines if not line.startswith(dull))
    said, advice, _ = text.partition(" Some common causes include")
    guess = " It was killed, ran out of memory, or crashed." if advice else ""
    return said + guess or type(error).__name__
