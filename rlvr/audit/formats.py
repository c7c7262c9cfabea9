"""Changes of a right completion's format that must keep its verdict."""

from collections.abc import Iterator

from rlvr.audit.answers import number_of
from rlvr.audit.forms import Form

_LONG_NUMBER = 1000


def format_changes(gold: str, form: Form) -> Iterator[tuple[str, str]]:
    """(what was changed, the completion) for a gold answer that passes in this form."""
    right = form.fill(gold)
    yield "a line end after it", f"{right}\n"
    yield "spaces around it", f"  {right}  "
    yield "blank lines before it", f"\n\n{right}"
    yield "Windows line ends", f"{right}\r\n".replace("\r\n", "\n").replace("\n", "\r\n")
    yield "spaces around the answer", form.fill(f" {gold} ")
    yield "a full stop after the answer", form.fill(f"{gold}.")
    yield "bold answer", form.fill(f"**{gold}**")
    yield "the answer as a formula", form.fill(f"${gold}$")
    yield "a sentence before it", f"Let me think step by step.\n{right}"
    yield "a sentence after it", f"{right}\nI hope this helps."
    yield "thinking before it", f"<think>\nLet me see.\n</think>\n{right}"
    yield "a no-break space", form.fill(f"\u00a0{gold}")
    number = number_of(gold)
    if number is None:
        if gold.lower() != gold:
            yield "lower case", form.fill(gold.lower())
        if gold.upper() != gold:
            yield "upper case", form.fill(gold.upper())
        if " " in gold:
            yield "two spaces between words", form.fill(gold.replace(" ", "  "))
        yield "\\text{}", form.fill(f"\\text{{{gold}}}")
        return
    if number.denominator == 1 and gold.lstrip("-").isdigit():
        yield "a decimal zero", form.fill(f"{gold}.0")
        if abs(number) >= _LONG_NUMBER:
            yield "thousands separators", form.fill(f"{int(number):,}")
    if gold.startswith("-"):
        yield "the Unicode minus sign", form.fill(f"\u2212{gold[1:]}")
    elif gold[0].isdigit():
        yield "a plus sign", form.fill(f"+{gold}")
