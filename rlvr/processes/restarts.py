"""How often lost members may be restarted, and which losses do not count."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A restart that was made or, with the limit reached, refused.

    node: where the member was lost. had_answered: whether it had answered anything there.
    """

    name: str
    node: str
    had_answered: bool


class Restarts:
    """Counts restarts against a limit. A member that was lost together with its node does not count.

    One that had answered nothing counts even then: it may be what brings its node down.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._made: list[Restart] = []
        self._refused: list[Restart] = []
        self._gone: set[str] = set()

    @property
    def num_made(self) -> int:
        """The restarts that count."""
        return len(self._made)

    def take(self, name: str, *, node: str = "", had_answered: bool = False) -> bool:
        """Counts a restart; False if the limit is reached."""
        restart = Restart(name=name, node=node, had_answered=had_answered)
        if self._is_forgiven(restart):
            return True
        is_allowed = len(self._made) < self.most
        (self._made if is_allowed else self._refused).append(restart)
        return is_allowed

    def forgive(self, node: str) -> list[str]:
        """Stops counting what was lost together with this node; returns the members that may be restarted after all."""
        self._gone.add(node)
        again = [restart.name for restart in self._refused if self._is_forgiven(restart)]
        self._made = [restart for restart in self._made if not self._is_forgiven(restart)]
        self._refused = [restart for restart in self._refused if not self._is_forgiven(restart)]
        return again

    def _is_forgiven(self, restart: Restart) -> bool:
        return restart.node in self._gone and restart.had_answered
