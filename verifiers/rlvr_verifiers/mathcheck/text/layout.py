r"""Removes layout without meaning: environments, tags, frames, HTML entities, end marks, and obsolete spellings."""

import re

_ENTITIES = {
    "&gt;": ">", "&lt;": "<", "&ge;": "≥", "&le;": "≤", "&ne;": "≠", "&nbsp;": " ", "&times;": "\\times ",
    "&minus;": "-", "&pi;": "\\pi ", "&quot;": "", "&#39;": "'", "&amp;": "&",
}  # fmt: skip
_ENTITY = re.compile("|".join(map(re.escape, _ENTITIES)))
_DROPPED = re.compile(
    r"\\(?:tag\*?|label|ref|eqref|bbox)\s*(?:\{[^{}]*\}|\[[^\[\]]*\])"
    r"|\\(?:notag|qed|qedhere|blacksquare|checkmark|Box|square|centering|noindent|par|relax|protect|boldmath|em"
    r"|mathstrut|hline|smallskip|medskip|bigskip)(?![A-Za-z])"
)
_FRAME = re.compile(
    r"\\(?:colorbox|enclose|raisebox|scalebox|parbox|rlap|llap)\s*\{[^{}]*\}(?=\s*\{)"
    r"|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}(?=\s*\{)|\\resizebox\s*\{[^{}]*\}\s*\{[^{}]*\}(?=\s*\{)"
    r"|\\(?:pmb|ensuremath|mathop|mathrel|mathbin|mathord|mathinner|mathclose|mathopen|bm|boldsymbol|underbrace|overbrace"
    r"|uuline|uline|framebox|centerline|smash|vcenter|mathchoice)\s*(?=\{)"
)
_RARE = re.compile(  # any of these, in one pass
    r"\\(?:tag|label|ref|eqref|bbox|notag|qed|blacksquare|checkmark|Box|square|centering|noindent|par|relax|protect|boldmath|em"
    r"|mathstrut|hline|smallskip|medskip|bigskip|colorbox|enclose|raisebox|scalebox|parbox|rlap|llap|fcolorbox|resizebox|pmb"
    r"|ensuremath|math(?:op|rel|bin|ord|inner|close|open|choice)|bm|boldsymbol|underbrace|overbrace|uuline|uline|framebox"
    r"|centerline|smash|vcenter)"
)
_LINES = re.compile(
    r"\\begin\s*\{(?P<env>aligned|align|alignat|alignedat|equation|gathered|gather|split|multline|displaymath|math|eqnarray"
    r"|cases|dcases|rcases|array|center|flalign)(?P<star>\*?)\}(?P<body>(?:(?!\\begin).)*?)\\end\s*\{(?P=env)(?P=star)\}",
    re.DOTALL,
)
_ARGUMENT = re.compile(r"\s*(?:\[[tbc]\]\s*)?(?:\{[^{}]*\}|\[[tbc]\])")
_ROW = re.compile(r"\\\\(?:\s*\[[^\[\]]*\])?|\\cr(?![a-z])")
_RELATION = re.compile(r"[=<>≤≥≠]|\\(?:leq?|geq?|neq?|lt|gt|leqslant|geqslant|in|equiv|approx)(?![a-z])")
_ALIGNMENT = re.compile(r"(?<!\\)&")
_DOTS = re.compile(r"\\dot\s*\{?\s*(\d)\s*\}?\s*(\d*)\s*\\dot\s*\{?\s*(\d)\s*\}?")
_TEXT_SIGN = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*([:.,;=/<>+-])\s*\}")
_TEXT_EXPONENT = re.compile(
    r"(?<=\d)(?:\s|\\[,;:! ])*\\(?:text|mathrm|textrm)\s*\{\s*[eE]\s*\}\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d+))"
)
_OLD_ROOT = re.compile(r"\\root\s*(?:\{([^{}]*)\}|(\w))\s*\\of\s*(?:\{([^{}]*)\}|(\w))")
_COMBINATIONS = re.compile(
    r"(?<![\w}])(?:\{\s*\})?\s*[_^]\s*(?:\{\s*(\w+)\s*\}|(\d))\s*(?:\\(?:text|mathrm)\s*\{\s*C\s*\}|C)\s*_\s*(?:\{\s*(\w+)\s*\}|(\d))"
)
_MAX_ENVIRONMENTS = 6
_JSON = re.compile(
    r"\s*\{?\s*\"?(?:final[_ ]?)?answer\"\s*:\s*(?P<quote>\"?)(?P<value>[^\"]{1,300})(?P=quote)\s*,?\s*\}?\s*",
    re.IGNORECASE,
)


def without_json(text: str) -> str:
    """The value of an answer that is written as JSON; any other text unchanged.

    >>> without_json('{"answer": "12"}')
    '12'
    """
    match = _JSON.fullmatch(text)
    return match["value"].strip().rstrip("}").strip() if match else text


def without_layout(text: str) -> str:
    r"""The text without its layout.

    >>> without_layout(r"\begin{aligned}x&=\frac{7}{12}\end{aligned}")
    'x=\\frac{7}{12}'
    >>> without_layout(r"\begin{cases}x=2\\y=3\end{cases}")
    'x=2, y=3'
    """
    if "&" in text:
        text = _ENTITY.sub(lambda match: _ENTITIES[match[0]], text)
    if "\\" not in text:
        return _COMBINATIONS.sub(_binomial, text) if "C" in text else text
    if _RARE.search(text):
        text = _FRAME.sub("", _DROPPED.sub(" ", text))
    if "\\begin" in text:
        for _ in range(_MAX_ENVIRONMENTS):
            text, count = _LINES.subn(_joined, text, count=1)
            if not count:
                break
    elif "\\\\ " in text or "\\\\\n" in text:
        rows = [row.strip() for row in re.split(r"\\\\\s+", text)]
        if all(_RELATION.search(row) for row in rows):
            text = ", ".join(row.rstrip(",") for row in rows)
    if "\\dot" in text:
        text = _DOTS.sub(r"\\overline{\1\2\3}", text)
    if "text" in text or "mathrm" in text or "mbox" in text:
        text = _TEXT_EXPONENT.sub(lambda m: f"\\times 10^{{{m[1] or m[2]}}}", text)
        text = _TEXT_SIGN.sub(r"\1", text)
    if "\\root" in text:
        text = _OLD_ROOT.sub(lambda m: f"\\sqrt[{m[1] or m[2]}]{{{m[3] or m[4]}}}", text)
    return _COMBINATIONS.sub(_binomial, text) if "C" in text else text


def _binomial(match: re.Match[str]) -> str:
    return f"\\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"


def _joined(match: re.Match[str]) -> str:
    """The rows of an environment on one line; unchanged if its columns have a meaning."""
    env, body = match["env"], match["body"]
    if env in ("array", "alignat", "alignedat") and (argument := _ARGUMENT.match(body)):
        body = body[argument.end() :]
    rows = [row.strip() for row in _ROW.split(body) if row.strip()]
    has_columns = any(_ALIGNMENT.search(row) for row in rows)
    if env in ("cases", "dcases", "rcases", "array"):
        is_system = all(_RELATION.search(row) for row in rows)
        if has_columns or not rows or (len(rows) > 1 and not is_system):
            return match[0].replace("\\begin", "\\begin ")  # so that it does not match again
    rows = [_ALIGNMENT.sub("", row).strip() for row in rows]
    if all(_RELATION.match(row) for row in rows[1:]):
        return " ".join(rows)
    return ", ".join(row.rstrip(",;") for row in rows)
