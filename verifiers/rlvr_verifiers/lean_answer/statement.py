r"""The theorem of a reference, and the three Lean files that are made of it and of a proof.

>>> found = read_statement("import Mathlib\nopen Nat\n\ntheorem two (n : ℕ) : n + 0 = n := by sorry")
>>> found.name, found.claim, found.header, found.imports
('two', ' (n : ℕ) : n + 0 = n', 'open Nat', ('Mathlib',))
"""

import re
from dataclasses import dataclass

from rlvr.records import Json
from rlvr_verifiers.lean_answer.guard import UnclosedComment, without_comments

_KEYS = ("statement", "formal_statement", "theorem")
_HEADERS = ("header", "lean_header")
_DECLARATION = re.compile(r"^(?:theorem|lemma)\s+([^\s:(){}\[\]⦃⦄]+?)(\.\{[^}]*\})?(?=[\s:({\[⦃])", re.MULTILINE)
_ANY_DECLARATION = re.compile(r"^[ \t]*(?:theorem|lemma)\b", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+(\S+)[ \t]*$", re.MULTILINE)
_ENDINGS = ("sorry", "by", ":=")
_UNCHECKABLE = re.compile(r"^[ \t]*(namespace|@\[|axiom|private|mutual)\b", re.MULTILINE)
_NAME = re.compile(r"[^\W\d][\w'!?]*(\.[^\W\d][\w'!?]*)*")
_MAX_CHARS = 50_000
GOAL, CHECKED = "rlvr_goal", "rlvr_checked"
_FORM = 'a theorem as text, "theorem t (n : Nat) : n = n", or {"statement": ..., "header": ...}'


class OtherStatement(ValueError):  # noqa: N818 - a finding about the completion
    """A completion that states something else than the reference."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A theorem without its proof. claim: everything after the name. header: what comes before, without imports."""

    name: str
    levels: str
    claim: str
    header: str
    imports: tuple[str, ...]

    def goal_file(self, imports: tuple[str, ...]) -> str:
        """The theorem under another name, unproved: what the proof's type is compared with."""
        return f"{self._top(imports)}theorem {GOAL}{self.levels}{self.claim} := by sorry\n"

    def candidate_file(self, imports: tuple[str, ...], proof: str) -> str:
        """The theorem with the completion's proof."""
        return f"{self._top(imports)}theorem {self.name}{self.levels}{self.claim} {proof}\n"

    def _top(self, imports: tuple[str, ...]) -> str:
        lines = [f"import {name}" for name in dict.fromkeys((*imports, *self.imports))]
        return "\n".join([*lines, "", self.header, "", ""])

    def check_file(self, marker: str) -> tuple[str, int]:
        """(a file without a word of the completion, the line of its `#print axioms`). marker: a random word."""
        lines = [
            "import RlvrGoal",
            "import RlvrCandidate",
            "",
            f"theorem {CHECKED}_{marker} : type_of% @{GOAL} := @_root_.{self.name}",
            f"#print axioms {CHECKED}_{marker}",
        ]
        return "\n".join(lines) + "\n", len(lines)

    def proof_in(self, text: str) -> str:
        """The proof that a completion gives, from `:=` or `|` on; it may repeat the theorem with its header.

        Raises: OtherStatement, UnclosedComment.
        """
        text = without_comments(text).strip()
        if _ANY_DECLARATION.search(text):
            text = self._after_restatement(text)
        return text if text.startswith((":=", "|")) else f":= {text}"

    def _after_restatement(self, text: str) -> str:
        match = _ANY_DECLARATION.search(text)
        assert match is not None
        known = {line.strip() for line in self.header.splitlines()}
        for line in text[: match.start()].splitlines():
            if line.strip() and line.strip() not in known and not _IMPORT.fullmatch(line):
                raise OtherStatement(f"{line.strip()[:80]!r} before the theorem is not in the reference")
        rest = text[match.end() :]
        wanted = "".join(f"{self.name}{self.levels}{self.claim}".split())
        position, index = 0, 0
        while index < len(wanted) and position < len(rest):
            if not rest[position].isspace():
                if rest[position] != wanted[index]:
                    break
                index += 1
            position += 1
        if index < len(wanted) or not rest[position:].lstrip().startswith((":=", "|")):
            raise OtherStatement("the theorem is not stated as in the reference")
        return rest[position:].strip()


def read_statement(reference: Json) -> Statement:
    """The statement in a reference. Raises ValueError if there is none."""
    header = ""
    given: Json = reference
    if isinstance(reference, dict):
        given = next((reference[key] for key in _KEYS if reference.get(key)), None)
        found = next((reference[key] for key in _HEADERS if reference.get(key)), "")
        if not isinstance(found, str):
            raise ValueError(f"the header {found!r:.100} is not a text")
        header = found
    if not isinstance(given, str):
        raise ValueError(f"{reference!r:.200} is not of the form {_FORM}")
    if len(header) + len(given) > _MAX_CHARS:
        raise ValueError(f"the statement has more than {_MAX_CHARS} characters")
    try:
        text = without_comments(f"{header}\n{given}")
    except UnclosedComment as error:
        raise ValueError(f"{error} in {reference!r:.200}") from error
    declarations = list(_DECLARATION.finditer(text))
    if not declarations:
        raise ValueError(f"{given!r:.200} has no line that begins with `theorem NAME`")
    last = declarations[-1]
    if not _NAME.fullmatch(last[1]):
        raise ValueError(f"{last[1]!r} is no name of a theorem")
    before, claim = text[: last.start()], text[last.end() :].rstrip()
    for ending in _ENDINGS:
        claim = claim.removesuffix(ending).rstrip()
    if match := _UNCHECKABLE.search(before):
        raise ValueError(
            f"`{match[1]}` before the theorem: its full name or its meaning could not be checked; state the theorem "
            "at top level, with `open` or full names"
        )
    if ":" not in claim.replace(":=", ""):
        raise ValueError(f"theorem {last[1]} states nothing: there is no `:`")
    if "sorry" in claim:
        raise ValueError(f"theorem {last[1]} has `sorry` in its statement")
    imports = tuple(_IMPORT.findall(before))
    lines = [line.rstrip() for line in _IMPORT.sub("", before).splitlines() if line.strip()]
    return Statement(last[1], last[2] or "", claim, "\n".join(lines), imports)
