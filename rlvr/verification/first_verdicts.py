"""Two verdicts of each verifier before a run, so that one that returns no verdict is refused and not found by training.

The completions are a wrong answer, on which functions often end without a `return`, and the reference itself.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rlvr.errors import PluginError
from rlvr.plugin import NEEDS_TOKENS, completion_from_text
from rlvr.protocols import Execution
from rlvr.records import Completion, Prompt, Status, Verdict
from rlvr.verification.jailed.jail import execution_of
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)

WRONG_ANSWER = "I do not know."


def require_verdicts(service: VerifierService, prompts: Iterable[Prompt], *, patience_s: float = 30.0) -> None:
    """Verifies two completions of each prompt; waits for the workers.

    Verifiers that ask a service (`Execution.ASYNC`) are left out. An exception, a hang or a crash is only logged: a run
    has its own limits for them.

    Args:
        prompts: one for each verifier with its settings, with that check alone.
        patience_s: seconds after which a verdict is no longer waited for.

    Raises: PluginError when an answer is not a verdict, with the verifier's file and line.
    """
    pairs = [
        (prompt, completion)
        for prompt in prompts
        if execution_of(prompt.checks[0]) is not Execution.ASYNC
        for completion in _completions(prompt)
    ]
    with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop
        answers = thread.submit(lambda: asyncio.run(_verdicts(service, pairs, patience_s=patience_s))).result()
    warned: set[str] = set()
    for (prompt, completion), verdict in zip(pairs, answers, strict=True):
        name = prompt.checks[0].verifier
        where = f"verifier {name!r}, tried on the completion {completion.text!r:.60}: "
        if verdict is None:
            problem = f"no verdict within {patience_s:g} s"
        elif verdict.details.get("exception") == PluginError.__name__:
            raise PluginError(where + verdict.reason)
        elif verdict.details.get("needs") == NEEDS_TOKENS:
            continue  # these completions have only text; those of a run have tokens
        elif verdict.status is Status.ERROR or "cause" in verdict.details:
            problem = f"{verdict.reason}\n{verdict.details.get('traceback', '')}".rstrip()
        else:
            continue
        if name not in warned:
            warned.add(name)
            logger.warning("%s%s", where, problem)


async def _verdicts(
    service: VerifierService, pairs: Sequence[tuple[Prompt, Completion]], *, patience_s: float
) -> list[Verdict | None]:
    """The verdicts that come in time, else None."""
    tasks = [asyncio.create_task(service.verify(*pair)) for pair in pairs]
    if not tasks:
        return []
    done, late = await asyncio.wait(tasks, timeout=patience_s)
    for task in late:
        task.cancel()
    return [next(iter(task.result().values())) if task in done else None for task in tasks]


def _completions(prompt: Prompt) -> list[Completion]:
    reference = prompt.reference
    texts = [WRONG_ANSWER, *([str(reference)] if isinstance(reference, str | int | float) else [])]
    return [completion_from_text(text, prompt_id=prompt.prompt_id) for text in texts]
