"""Other trainers' names for parameters of reward functions, and rlvr's names; for error messages."""

_ONE_TEXT = "rlvr calls the function once for each completion, with its text"
_TAGS = "the row's columns, as prompt.tags['column']; name one that holds an object in the recipe's `columns`"
_MESSAGES = "prompt.messages (chat) or prompt.text"

_SCHEMES = (  # of adapters, with parameters by which a function of that trainer is recognised
    ("trl", "TRL", frozenset({"completions", "completion_ids"})),
    ("verl", "verl", frozenset({"solution_str", "ground_truth"})),
)
PEER_ARGUMENTS: dict[str, tuple[str, str, str]] = {
    # TRL, open-r1
    "completions": ("TRL", "text", _ONE_TEXT),
    "prompts": ("TRL", "prompt", _MESSAGES),
    "completion_ids": ("TRL", "completion", "completion.token_ids"),
    "completions_ids": ("TRL", "completion", "completion.token_ids"),
    "trainer_state": ("TRL", "", "a verdict does not depend on the step"),
    "solution": ("TRL, open-r1", "reference", "the column that `columns.reference` names"),
    "solutions": ("TRL", "reference", "the column that `columns.reference` names"),
    # verl
    "solution_str": ("verl", "text", _ONE_TEXT),
    "ground_truth": ("verl", "reference", "the column that `columns.reference` names"),
    "extra_info": ("verl", "prompt", _TAGS),
    "data_source": ("verl", "prompt", "prompt.source, or prompt.tags['data_source']"),
    "reward_model": ("verl", "reference", "set columns.reference: reward_model.ground_truth"),
    "sandbox_fusion_url": ("verl", "", "programs run in the sandbox that the recipe names"),
    # verifiers, prime-rl
    "answer": ("verifiers", "reference", "the column that `columns.reference` names"),
    "parser": ("verifiers", "", "parse the answer from `text`, or use the built-in verifiers"),
    "state": ("verifiers", "completion", "single turn: the completion is all there is"),
    "info": ("verifiers", "prompt", _TAGS),
    "task": ("verifiers", "prompt", "prompt.source"),
    # OpenRLHF, NeMo RL, SkyRL, AReaL
    "queries": ("OpenRLHF", "text", "without the prompt; " + _ONE_TEXT),
    "labels": ("OpenRLHF", "reference", "of one completion"),
    "label": ("OpenRLHF", "reference", "the column that `columns.reference` names"),
    "message_log": ("NeMo RL", "prompt", _MESSAGES),
    "metadata": ("NeMo RL", "prompt", _TAGS),
    "env_extras": ("SkyRL", "prompt", _TAGS),
    "completion_str": ("AReaL", "text", _ONE_TEXT),
    # common names
    "response": ("other trainers", "text", _ONE_TEXT),
    "responses": ("other trainers", "text", _ONE_TEXT),
    "output": ("other trainers", "text", _ONE_TEXT),
    "outputs": ("other trainers", "text", _ONE_TEXT),
    "generation": ("other trainers", "text", _ONE_TEXT),
    "prediction": ("other trainers", "text", _ONE_TEXT),
    "question": ("other trainers", "prompt", _MESSAGES),
    "target": ("other trainers", "reference", "the column that `columns.reference` names"),
    "gold": ("other trainers", "reference", "the column that `columns.reference` names"),
    "golden_answer": ("other trainers", "reference", "the column that `columns.reference` names"),
    "gt": ("other trainers", "reference", "the column that `columns.reference` names"),
}  # fmt: skip


def peer_scheme(found: object, name: str) -> str:
    """The name that brings another trainer's function unchanged, as the end of an error message; "" for other things.

    >>> peer_scheme(lambda completions, **kwargs: [0.0], "rewards.py:short")
    '. It looks like a reward function of TRL; to use it unchanged, write trl:rewards.py:short'
    """
    code = getattr(found, "__code__", None)
    names = (
        frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) if code is not None else frozenset()
    )
    for scheme, trainer, parameters in _SCHEMES:
        if parameters & names:
            return f". It looks like a reward function of {trainer}; to use it unchanged, write {scheme}:{name}"
    return ""


def peer_argument(name: str) -> str:
    """What to use in place of another trainer's parameter; empty for an unknown name.

    >>> peer_argument("ground_truth")
    "'ground_truth' is its name in verl; use `reference` (the column that `columns.reference` names)"
    """
    if name not in PEER_ARGUMENTS:
        return ""
    peers, ours, remark = PEER_ARGUMENTS[name]
    if not ours:
        return f"{name!r} is a parameter in {peers}; remove it ({remark})"
    return f"{name!r} is its name in {peers}; use `{ours}` ({remark})"
