"""What a proof may not contain: text that ends the proof, starts another command, or runs code while it is elaborated.

The comments are removed before anything is checked, and Lean gets the text without them. So Lean and this module cannot
disagree about what is a comment. String literals are refused for the same reason.

>>> problem_of("by\\n  simp [Nat.add_comm]")
''
>>> problem_of("by simp\\nend Foo")
"'end' may not occur in a proof"
"""

import re
from typing import Final

# what begins a command, changes the language, is no proof, or runs code during elaboration
_FORBIDDEN: Final = frozenset({
    "abbrev", "add_decl_doc", "admit", "alias", "attribute", "axiom", "binder_predicate", "builtin_dsimproc",
    "builtin_initialize", "builtin_simproc", "by_elab", "class", "coinductive", "compile_inductive", "constant",
    "declare_syntax_cat", "def", "deriving", "dsimproc", "elab", "elab_rules", "elab_stx", "end", "example",
    "export", "extern", "grind_pattern", "implemented_by", "import", "include", "include_bytes", "include_str",
    "inductive", "infix", "infixl", "infixr", "init_quot", "initialize", "initialize_simps_projections", "instance",
    "irreducible_def", "lemma", "library_note", "local", "macro", "macro_rules", "meta", "module", "mutual",
    "namespace", "noncomputable", "nonrec", "notation", "notation3", "omit", "opaque", "open", "partial", "postfix",
    "prefix", "private", "proof_wanted", "protected", "public", "recommended_spelling", "register_builtin_option",
    "register_option", "register_simp_attr", "run_cmd", "run_elab", "run_meta", "run_tac", "scoped", "seal",
    "section", "set_option", "simproc", "simproc_decl", "simproc_pattern", "sorry", "sorryAx", "stop", "structure",
    "suppress_compilation", "syntax", "tactic_extension", "theorem", "unif_hint", "universe", "unsafe", "unseal",
    "unset_option", "variable", "variables", "with_weak_namespace",
})  # fmt: skip
_NATIVE: Final = frozenset({"native_decide", "ofReduceBool", "ofReduceNat", "trustCompiler"})
_NAMESPACES: Final = frozenset({"Lean", "IO", "System"})
# letters of ASCII only: after a sign such as ⁻¹ Lean begins a new word, and every keyword is in ASCII
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_'!?]*(?:\.[A-Za-z_][A-Za-z0-9_'!?]*)*")
_SIGNS: Final = {
    '"': "a string literal",
    "«": "a quoted name",
    "@[": "an attribute",
    "`": "a quotation",
    "eval%": "evaluation",
    "-/": "the end of a comment that was never opened",
}
_BLOCK_ENDS = re.compile(r"/-|-/")
_HASH_COMMAND = re.compile(r"#\s*[^\W\d]")


class UnclosedComment(ValueError):  # noqa: N818 - a finding about the text
    """A comment that is never closed would hide everything after it."""


def without_comments(text: str) -> str:
    """The text with a space in place of each comment, nested ones included.

    Raises: UnclosedComment.
    """
    kept: list[str] = []
    position, start = 0, 0
    while position < len(text):
        pair = text[position : position + 2]
        if pair == "--":
            kept.append(text[start:position] + " ")
            end = text.find("\n", position)
            position = start = len(text) if end < 0 else end
        elif pair == "/-":
            kept.append(text[start:position] + " ")
            position = start = _end_of_block(text, position)
        else:
            position += 1
    return "".join(kept) + text[start:]


def _end_of_block(text: str, position: int) -> int:
    depth = 0
    for match in _BLOCK_ENDS.finditer(text, position):
        depth += 1 if match.group() == "/-" else -1
        if depth == 0:
            return match.end()
    raise UnclosedComment("a comment is never closed")


def problem_of(proof: str, *, native_decide: bool = False) -> str:
    """Why a proof without comments is refused; "" if Lean may see it."""
    for sign, name in _SIGNS.items():
        if sign in proof:
            return f"{name} ({sign}) may not occur in a proof"
    if match := _HASH_COMMAND.search(proof):
        return f"{match.group()!r} begins a command, which may not occur in a proof"
    for match in _WORD.finditer(proof):
        word = match.group()
        parts = word.split(".")
        first = next((part for part in parts if part != "_root_"), "")
        if first in _FORBIDDEN or first in _NAMESPACES:
            return f"{word!r} may not occur in a proof"
        if not native_decide and not _NATIVE.isdisjoint(parts):
            return f"{word!r} may not occur in a proof: it trusts compiled code (setting native_decide)"
        if any(part.startswith(("unsafe", "sorry")) for part in parts):
            return f"{word!r} may not occur in a proof"
    return _bracket_problem(proof)


def _bracket_problem(proof: str) -> str:
    """A bracket without its partner; Lean would say so later, in a message about our own text."""
    partners = {")": "(", "]": "[", "}": "{", "⟩": "⟨"}
    opened: list[str] = []
    for sign in proof:
        if sign in "([{⟨":
            opened.append(sign)
        elif sign in partners and (not opened or opened.pop() != partners[sign]):
            return f"the bracket {sign} was never opened"
    return f"the bracket {opened[-1]} is never closed" if opened else ""
