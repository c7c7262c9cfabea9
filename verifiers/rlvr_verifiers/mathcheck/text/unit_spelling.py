"""Normalises the spelling of units: powers and fractions in text groups, and the macros of siunitx."""

import re

_MAX_POWERS = 8
_TEXT_POWER = re.compile(r"(\\text\s*\{[^{}]{0,80}?)\s*\^\s*\{\s*(-?\s*\d)\s*\}")
_TEXT_FRACTION = re.compile(r"(\\text\s*\{[^{}]{0,80}?)\\[dt]?frac\s*\{([^{}]{0,80})\}\s*\{([^{}]{0,80})\}")
_UNIT_POWER = r"((?:\s*\^\s*\{?\s*-?\d\s*\}?)?)"
_FRACTION_OF_TEXT = re.compile(
    rf"\\frac\s*\{{\s*\\text\s*\{{([^{{}}]{{1,60}})\}}{_UNIT_POWER}\s*\}}\s*\{{\s*\\text\s*\{{([^{{}}]{{1,60}})\}}{_UNIT_POWER}\s*\}}"
)
_SI = re.compile(r"\\(?:SI|si|qty|unit|num|ang)(?![A-Za-z])")
_SI_NUMBER = re.compile(r"\\(?:num|ang)\s*(?:\[[^\[\]]*\])?\s*\{([^{}]{1,60})\}")
_SI_BRACES = r"\{((?:[^{}]|\{[^{}]{0,10}\}){1,100})\}"
_SI_QUANTITY = re.compile(rf"\\(?:SI|qty)\s*(?:\[[^\[\]]*\])?\s*\{{([^{{}}]{{1,60}})\}}\s*{_SI_BRACES}")
_SI_UNIT = re.compile(rf"\\(?:si|unit)\s*(?:\[[^\[\]]*\])?\s*{_SI_BRACES}")


def plain_units(text: str) -> str:
    r"""The text with powers and fractions of units moved inside `\text{..}`, in one level of braces."""
    if "^" in text:
        for _ in range(_MAX_POWERS):
            text, count = _TEXT_POWER.subn(r"\1^\2", text)
            if not count:
                break
    if "\\frac" in text:
        text = _TEXT_FRACTION.sub(r"\1\2/(\3)", text)
        text = _FRACTION_OF_TEXT.sub(r"\\text{\1\2/(\3\4)}", text)
    return text


def without_si(text: str) -> str:
    r"""The text with siunitx macros expanded: `\SI{5}{\metre\per\second}` is 5 \text{metre / second}."""
    if not _SI.search(text):
        return text
    text = _SI_NUMBER.sub(r"\1", text)
    text = _SI_QUANTITY.sub(lambda m: f"{m[1]} \\text{{{_si_unit(m[2])}}}", text)
    return _SI_UNIT.sub(lambda m: f" \\text{{{_si_unit(m[1])}}}", text)


def _si_unit(text: str) -> str:
    text = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", text).replace(".", " ").replace("~", " ")
    text = re.sub(r"\\(square|cubic)(?![a-z])", r" \1 ", text.replace("\\per", " / ").replace("\\of", " "))
    text = re.sub(r"\\tothe\s*\{(\d)\}", r"^\1", text)
    text = re.sub(r"\\(kilo|milli|micro|nano|pico|centi|mega|giga|tera)\s*\\?", r" \1", text)
    return re.sub(r"\\([A-Za-z]+)", r" \1", text)
