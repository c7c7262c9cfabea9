"""Names and nouns before a point or a region: `P(2, 3)`, `the domain of f is [-2, 3)`, `center (2, 3)`."""

import re

from rlvr_verifiers.mathcheck.text.spelling import split_outside, unwrapped_text
from rlvr_verifiers.mathcheck.values.answers import Parts, Reader, Reading
from rlvr_verifiers.mathcheck.values.regions import Region

_NOUN = (
    r"(?:domain|range|interval|solutions?(?: set)?|set|points?|cent(?:er|re)|vertex|vertices|foc(?:us|i)|coordinates"
    r"|midpoint|centroid|intersection|location|position|pairs?|triples?|image|values?|possible values|region|answer)"
)
_DESCRIBED = re.compile(
    rf"(?:the |all |its )?(?:[a-z]+ )?{_NOUN}(?: of| for)?(?: the)?(?: [a-z]{{4,}})?"
    rf"\s*(?P<name>[A-Za-z](?:\([a-z]\))?)?\s*"
    r"(?:(?:is|are|at)\s*:?|:|=)?\s*(?P<rest>[\[\](\\{].*)",
    re.IGNORECASE,
)
_POINT = re.compile(r"(?P<name>[A-Z])\s*'?\s*_?\d?\s*(?P<rest>\(.+\))")
_FOREIGN = re.compile(r"^\]|\[$|[∪∈=]\s*\]|\[\s*∪")
_FOREIGN_INTERVAL = re.compile(r"([\[\]])\s*([^\[\]∪]*?[,;][^\[\]∪]*?)\s*([\[\]])")


def described(text: str, reader: Reader) -> list[Reading] | None:
    """The point or region that a noun or a capital letter introduces; None for anything else."""
    if "(" not in text and "[" not in text and "{" not in text:
        return None
    if text[0].isalpha() or text.startswith("\\text"):
        match = _DESCRIBED.fullmatch(unwrapped_text(text).strip())
        if match is not None:
            found = reader.readings(match["rest"].strip())
            return [one for one in found if isinstance(one, (Region, Parts))] or None
        match = _POINT.fullmatch(text) if text[0].isupper() else None
        if match is not None and len(split_outside(match["rest"][1:-1], ",")) > 1:
            points = [one for one in reader.readings(match["rest"]) if isinstance(one, Parts)]
            if points and match["name"] != "C":  # C(8, 3) is a binomial coefficient
                return list(points)
    if ("]" in text or "[" in text) and _FOREIGN.search(text):
        turned = _FOREIGN_INTERVAL.sub(_turned, text)
        return reader.readings(turned) or None if turned != text else None
    return None


def _turned(match: re.Match[str]) -> str:
    """]a, b[ as (a, b)."""
    opening = "(" if match[1] == "]" else "["
    closing = ")" if match[3] == "[" else "]"
    return f"{opening}{match[2]}{closing}"
