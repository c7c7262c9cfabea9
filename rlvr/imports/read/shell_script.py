"""Reads the overrides of a shell script, such as verl's examples, without running it.

Variables are replaced where the script sets them to plain text, arithmetic, or `${NAME:-default}`. The insides of `if`,
`case`, loops and functions are not evaluated: overrides there are reported as unread, a variable keeps the value that
it has outside, and one that gets its value only there is unknown. The environment is never consulted; `$HOME` becomes
`~`.
"""

import ast
import re
import shlex
from dataclasses import dataclass, field

from rlvr.imports.read.overrides import PAIR, value_of
from rlvr.imports.records import Given, Reading

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_OPENING = re.compile(r"(if|case|for|while|until)\b|(function\s+)?[\w-]+\s*\(\)\s*\{")
_CLOSING = re.compile(r"(?:fi|esac|done)(?!\S)|\}")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-((?:[^{}]|\{[^{}]*\})*))?\}|(\w+))")
_SUM = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_SPACED = re.compile(r"\$\(\(.*?\)\)|\$\([^()]*\)")
_ARRAY = re.compile(r"\$\{(\w+)\[[@*]\]\}")


@dataclass(slots=True)
class _Script:
    """What was read so far. conditional: variables that the script sets where nothing is evaluated, with the line."""

    label: str
    lines: list[str]
    texts: dict[str, str] = field(default_factory=dict[str, str])
    arrays: dict[str, list[tuple[str, int]]] = field(default_factory=dict[str, list[tuple[str, int]]])
    conditional: dict[str, int] = field(default_factory=dict[str, int])
    unread: list[str] = field(default_factory=list[str])
    keys: dict[str, Given] = field(default_factory=dict[str, Given])


def read_shell(text: str, *, label: str) -> Reading:
    """The overrides of a script, or of a file with one `key=value` on each line.

    >>> script = "LR=${LR:-1e-6}\\npython -m verl.trainer.main_ppo actor.optim.lr=$LR trainer.nnodes=$((1+1))"
    >>> {key: given.value for key, given in read_shell(script, label="run.sh").keys.items()}
    {'actor.optim.lr': 1e-06, 'trainer.nnodes': 2}
    """
    script = _Script(label=label, lines=text.splitlines())
    depth = 0
    for line, words in _commands(text):
        joined = " ".join(words)
        opens = bool(_OPENING.match(joined))
        closes = bool(_CLOSING.match(joined)) or (opens and _CLOSING.fullmatch(words[-1]) is not None)
        depth += opens - closes
        if opens or closes or depth > 0:
            _note_unread(script, words, line)
        else:
            _read(script, words, line)
    return Reading(file=label, keys=script.keys, notes=_notes(script))


def _notes(script: _Script) -> list[str]:
    notes: list[str] = []
    if script.unread:
        notes.append(f"{script.label} sets keys under a condition, which were not read: {', '.join(script.unread)}")
    changed = [f"{name} (line {line})" for name, line in script.conditional.items() if script.texts.get(name)]
    if changed:
        notes.append(f"{script.label} may change variables under a condition, which was not read: {', '.join(changed)}")
    return notes


def _commands(text: str) -> list[tuple[int, list[str]]]:
    """The words of each command with its line; quotes are removed, and lines that end in a backslash are joined."""
    found: list[tuple[int, list[str]]] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending:
            start = number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        try:
            words = shlex.split(_SPACED.sub(lambda match: re.sub(r"\s+", "", match[0]), pending), comments=True)
        except ValueError:  # a quote that is still open
            pending += "\n"
            continue
        opens = [i for i, word in enumerate(words) if re.fullmatch(r"[A-Za-z_]\w*\+?=\(.*", word, re.DOTALL)]
        if opens and not any(word.endswith(")") for word in words[opens[-1] :]):
            pending += "\n"
            continue
        pending = ""
        if words:
            found.append((start, words))
    return found


def _read(script: _Script, words: list[str], line: int) -> None:
    array = re.fullmatch(r"([A-Za-z_]\w*)(\+?)=\((.*)", words[0], re.DOTALL)
    if array:
        inner = [array[3], *words[1:]]
        inner[-1] = inner[-1].removesuffix(")")
        entries = [(word, line) for word in inner if word]
        script.arrays[array[1]] = [*(script.arrays.get(array[1], []) if array[2] else []), *entries]
        return
    words = words[1:] if words[0] == "export" else words
    while words and (match := _ASSIGNMENT.fullmatch(words[0])) and "." not in match[1]:
        script.texts[match[1]] = _expanded(script, match[3])
        words = words[1:]
    for word, place in _unfolded(script, [(word, line) for word in words]):
        match = PAIR.fullmatch(word)
        if match and ("." in match[2] or len(words) == 1):
            _add(script, match[1] or "", match[2], match[3], place)


def _unfolded(script: _Script, words: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The words with arrays in the place of `${NAME[@]}`."""
    result: list[tuple[str, int]] = []
    for word, line in words:
        match = _ARRAY.fullmatch(word)
        result += _unfolded(script, script.arrays.get(match[1], [])) if match else [(word, line)]
    return result


def _add(script: _Script, sign: str, key: str, raw: str, line: int) -> None:
    place = f"{script.label}:{_line_of(script, key, line)}"
    if sign == "~":
        script.keys.pop(key, None)
        return
    text = _expanded(script, raw)
    missing = [match[1] or match[3] for match in _VARIABLE.finditer(text)]
    if missing:
        why = "is set under a condition" if missing[0] in script.conditional else "is not set in the script"
        unread = f"its value needs ${missing[0]}, which {why}"
    else:
        unread = "its value is the output of a command" if "$(" in text or "`" in text else ""
    script.keys[key] = Given(value=raw if unread else value_of(text), place=place, unread=unread)


def _line_of(script: _Script, key: str, start: int) -> int:
    """The line of a key in the command that begins at `start`."""
    numbered = enumerate(script.lines[start - 1 :], start=start)
    return next((number for number, text in numbered if f"{key}=" in text), start)


def _note_unread(script: _Script, words: list[str], line: int) -> None:
    for word in (word.removesuffix(";") for word in words):
        match = PAIR.fullmatch(word.rpartition("(")[2] if re.match(r"\w+\+?=\(", word) else word)
        if match and "." in match[2]:
            script.unread.append(f"{match[2]}={match[3].removesuffix(')')} (line {_line_of(script, match[2], line)})")
        elif match and match[2].isidentifier():
            script.conditional[match[2]] = line


def _expanded(script: _Script, text: str) -> str:
    """The text with variables and arithmetic replaced; what is unknown stays as it is."""

    def variable(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], match[2]
        known = script.texts.get(name, "")
        if known or (default is None and name in script.texts and name not in script.conditional):
            return known
        if name == "HOME":
            return "~"
        return match[0] if default is None or name in script.conditional else _expanded(script, default)

    expanded = _VARIABLE.sub(variable, text)
    return _SUM.sub(lambda match: _sum(match, script), expanded)


def _sum(match: re.Match[str], script: _Script) -> str:
    """The value of `$((...))` with whole numbers; the text itself where it is anything else."""
    named = re.sub(r"[A-Za-z_]\w*", lambda name: script.texts.get(name[0], name[0]), match[1])
    try:
        return str(_number(ast.parse(named.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return match[0]


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div() | ast.FloorDiv():
                return left // right
            case ast.Mod():
                return left % right
            case _:
                pass
    raise ValueError("not arithmetic of whole numbers")
