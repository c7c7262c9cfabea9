"""What a judge may spend: calls, tokens and cost. When it is used up, nothing more is sent and items become ERROR."""

import threading

from rlvr.errors import ConfigError, VerifierError
from rlvr.records import Json

_PER_PRICE = 1_000_000  # prices are for a million tokens


class Budget:
    """Counts the calls and tokens of one verifier in one process, from any thread; a limit of 0 is none.

    Calls that are open when a limit of tokens or cost is reached are still answered, so at most `max_open` times the
    requests per completion go beyond it. A limit of calls is exact. A retry after a temporary status is not a new call.

    >>> budget = Budget(max_calls=1)
    >>> budget.begin_call()
    >>> budget.begin_call()
    Traceback (most recent call last):
    rlvr.errors.VerifierError: the judge's budget is used up: 1 of max_calls=1; raise it, or end the run here
    """

    def __init__(
        self,
        *,
        max_calls: int = 0,
        max_tokens: int = 0,
        max_cost: float = 0.0,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ) -> None:
        self._max_calls = max_calls
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self._prompt_price = prompt_price
        self._completion_price = completion_price
        self._lock = threading.Lock()
        self.num_calls = 0
        self.num_tokens = 0
        self.cost = 0.0

    def begin_call(self) -> None:
        """Counts a call that is about to be sent. Raises VerifierError if a limit has been reached."""
        with self._lock:
            used = ""
            if self._max_calls and self.num_calls >= self._max_calls:
                used = f"{self.num_calls:,} of max_calls={self._max_calls}"
            elif self._max_tokens and self.num_tokens >= self._max_tokens:
                used = f"{self.num_tokens:,} of max_total_tokens={self._max_tokens}"
            elif self._max_cost and self.cost >= self._max_cost:
                used = f"{self.cost:.4g} of max_cost={self._max_cost:g}"
            if used:
                raise VerifierError(f"the judge's budget is used up: {used}; raise it, or end the run here")
            self.num_calls += 1

    def spend(self, answer: Json) -> None:
        """Adds the usage of an answer. Raises ConfigError if tokens are limited and the server does not count them."""
        match answer:
            case {"usage": {"prompt_tokens": int() as prompt, "completion_tokens": int() as completion}}:
                with self._lock:
                    self.num_tokens += prompt + completion
                    cost = prompt * self._prompt_price + completion * self._completion_price
                    self.cost += cost / _PER_PRICE
            case _ if self._max_tokens or self._max_cost:
                raise ConfigError(
                    "max_total_tokens and max_cost need the server's token counts (`usage`), which its answer lacks; "
                    "use max_calls"
                )
            case _:
                return
