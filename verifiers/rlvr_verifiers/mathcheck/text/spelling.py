r"""Normalises the layout and spelling of an answer.

`tidy` returns LaTeX with a fixed set of commands (`\frac`, `\text`, `\{`) and one-character relations and set
operators (≤ ≥ ≠ ≈ ∪ ∩ ∈ ∖ ∅). It removes delimiters around the whole, spacing commands, and thousands separators
that are unambiguous.
"""

import re
import unicodedata

from rlvr_verifiers.mathcheck.text.languages import LATIN_CONNECTIVES, with_english_connectives
from rlvr_verifiers.mathcheck.text.layout import without_json, without_layout
from rlvr_verifiers.mathcheck.text.unit_spelling import plain_units, without_si
from rlvr_verifiers.mathcheck.text.vocabulary import words

MAX_CHARS = 2000

_UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ",
    "∙": "\\cdot ", "•": "\\cdot ", "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "°": "^\\circ ", "º": "^\\circ ",
    "˚": "^\\circ ",
    "π": "\\pi ", "𝜋": "\\pi ", "∞": "\\infty ", "⩽": "≤", "≦": "≤", "⩾": "≥", "≧": "≥", "≃": "≈", "≅": "≈",
    "∅": "∅", "∖": "∖",
    "≡": "=", "±": "\\pm ", "∓": "\\mp ", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"',
    "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{", "｝": "}",
    "。": ".", "＝": "=", "＋": "+", "－": "-", "＜": "<", "＞": ">", "％": "%", "｜": "|", "∣": "|", "⟨": "(",
    "⟩": ")",
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
    "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4", "₅": "_5", "₆": "_6", "₇": "_7", "₈": "_8", "₉": "_9",
    "½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅕": "\\frac{1}{5}", "⅖": "\\frac{2}{5}", "⅗": "\\frac{3}{5}", "⅘": "\\frac{4}{5}", "⅙": "\\frac{1}{6}",
    "⅚": "\\frac{5}{6}", "⅐": "\\frac{1}{7}", "⅛": "\\frac{1}{8}", "⅜": "\\frac{3}{8}", "⅝": "\\frac{5}{8}",
    "⅞": "\\frac{7}{8}", "⅑": "\\frac{1}{9}", "⅒": "\\frac{1}{10}",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ε": "\\epsilon ", "θ": "\\theta ",
    "λ": "\\lambda ",
    "μ": "\\mu ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ", "φ": "\\phi ", "ω": "\\omega ", "Δ": "\\Delta ",
    "Ω": "\\Omega ",
    "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "\u3000": " ", "\u200b": "", "\u2060": "",
    "\ufeff": "",
    "\t": " ", "\n": " ", "\r": " ", "⇒": "\\Rightarrow ", "→": "\\to ",
})  # fmt: skip
_RAISED = {**dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))}
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_CIRCLED_RUN = re.compile("[\u2460-\u2473]+")
_ROOT = re.compile(r"(√|∛|∜)\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|\\?[A-Za-z]+))")
_ROOT_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}

_COMMANDS = {
    **dict.fromkeys((
        ",", ";", ":", " ", ">", "quad", "qquad", "thinspace", "medspace", "thickspace", "enspace", "nobreakspace",
        "space", "allowbreak", "hfill", "hspace", "vspace", "phantom", "hphantom", "newline",
    ), " "),
    **dict.fromkeys((
        "!", "left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl",
        "biggr", "Biggl",
        "Biggr", "bigm", "Bigm", "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "negthinspace",
        "rm", "bf",
        "it", "bfseries", "itshape", "large", "Large", "LARGE", "huge", "Huge", "small", "normalsize", "nonumber",
        "strut",
    ), ""),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "sfrac", "nicefrac", "textfrac"), "\\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), "\\binom"),
    **dict.fromkeys((
        "text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "textsc", "textmd", "textup", "mbox",
        "hbox", "emph", "mathrm", "mathsf", "mathtt", "mathnormal", "underline",
    ), "\\text"),
    **dict.fromkeys(("leq", "le", "leqslant", "leqq"), "≤"), **dict.fromkeys(("geq", "ge", "geqslant", "geqq"), "≥"),
    **dict.fromkeys(("neq", "ne"), "≠"), **dict.fromkeys(("approx", "approxeq", "simeq", "cong", "doteq"), "≈"),
    "lt": "<", "gt": ">", "cup": "∪", "bigcup": "∪", "cap": "∩", "in": "∈", "isin": "∈", "notin": "∉",
    "setminus": "∖", "smallsetminus": "∖", "backslash": "∖",
    **dict.fromkeys(("emptyset", "varnothing", "empty"), "∅"),
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "colon": ":",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "%": "%", "#": "#", "&": "&", "infin": "\\infty ", "degree": "^\\circ ", "textdegree": "^\\circ ",
    "R": "\\mathbb{R}", "reals": "\\mathbb{R}", "Reals": "\\mathbb{R}", "Z": "\\mathbb{Z}", "N": "\\mathbb{N}",
    "Bbb": "\\mathbb", "lor": "\\text{ or }", "vee": "\\text{ or }", "land": "\\text{ and }",
    "wedge": "\\text{ and }",
    "dots": "\\ldots ", "cdots": "\\ldots ", "dotsc": "\\ldots ", "dotsb": "\\ldots ",
    "textdollar": "\\$", "euro": "€",
    "cent": "¢", "textcent": "¢", "AA": "Å", "textmu": "\\mu ",
    "pounds": "£", "textpm": "\\pm ", "bmod": "\\bmod ",
    "implies": "\\Rightarrow ", "Longrightarrow": "\\Rightarrow ", "iff": "\\Rightarrow ",
    "Leftrightarrow": "\\Rightarrow ",
    "therefore": "", "equiv": "=", "ast": "*", "langle": "(", "rangle": ")",
}  # fmt: skip
_COMMAND = re.compile(r"\\\\(?:\s*\[[\d.]+\s*[a-z]+\])?|\\([A-Za-z]+|[^A-Za-z])")
_FUNCTION_NAMES = frozenset(words("sin cos tan cot csc arcsin arccos arctan sinh cosh tanh log ln exp gcd lcm max det"))
_TEXT_GROUP = re.compile(r"\\text\s*\{([^{}]*)\}")
_NO_TEXT = re.compile(r"\\text\s*\{\s*\}")
_TEXT_UNBRACED = re.compile(r"\\text\s+([A-Za-z])(?![A-Za-z{])")
_COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}|\\[hv]?phantom\s*\{[^{}]*\}")
_NO_BRACKET = re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)\s*\.(?!\d)")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z(){}\[\]%$])")
_CHOOSE = re.compile(
    r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}|(?<![^\s])\s*([^{}\\\s]+?)\s*\\choose\s*([^{}\\\s]+?)\s*$"
)
_BARE_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_DOT_BEFORE_BRACKET = re.compile(r"\.(?=\s*[)\]])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAFE = re.compile(r"[0-9A-Za-z+*/()\[\]=.^_{}, <>|-]*")
_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_REPEATING = re.compile(r"(\d*\.\d{0,20}?)(\d{1,6}?)\2{2,}(?:\.{3}|\\(?:l|c)?dots)\s*$")
_SPACES = re.compile(r"\s+")
_BACKSLASH_SPACE_COMMA = re.compile(r",\s*\\!\s*(?=\d{3}(?!\d))")
_BRACED_COMMA = re.compile(r"(?<=\d)\s*\{\s*,\s*\}\s*(\d+)?")
_BRACED_SIGN = re.compile(r"(?<![\\^_a-zA-Z}])\{\s*([:=<>+/-])\s*\}")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,A-Za-z_^{])\d{1,3}(?: \d{3})+(?![\d]| ?[/,]|\.\d* \d)")
_MARKED_THOUSANDS = re.compile(r"(?<![\d'.])[1-9]\d{0,2}(?:'\d{3})+(?![\d'])")
_SAID_CONSTANT = re.compile(
    r"([+-])\s*(?:\\text\s*\{\s*(?:an? |any |some )?(?:arbitrary )?const(?:ant)?\.?\s*\}|(?:const|constant)\b\.?)",
    re.IGNORECASE,
)
_CIRCLE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*")
_MARKS = re.compile(r"\s*\^\s*(?:\{\s*((?:\\prime\s*)+)\}|(\\prime))")
_APART = re.compile(  # $y_1 = a$ $y_2 = b$
    r"(?<![-+*/=<>(,])\s?\$\s+\$(?=\s*[A-Za-z](?:_\{?\w{1,4}\}?)?(?:\([a-z]\))?\s*=)"
)
_FACTORIAL_OR_UNEQUAL = re.compile(r"(?<![0-9)\]}!])\s*!=\s*")
_MATHBB = re.compile(r"\\(?:mathbb|mathbf)\s*\{?\s*([RZNQC])(?![A-Za-z])\s*\}?(?:\s)?")


def tidy(text: str) -> str:
    r"""The normalised answer. A text over `MAX_CHARS` is returned unchanged; callers refuse it.

    >>> tidy(r"$\left(\dfrac12,\,10{,}000\right)$.")
    '(\\frac12, 10000)'
    >>> tidy(r"\text{Tuesday}"), tidy("x ≤ 5"), tidy(r"x \leqslant 5")
    ('Tuesday', 'x ≤ 5', 'x ≤ 5')
    """
    if len(text) > MAX_CHARS:
        return text
    if not text.isascii():
        text = with_english_connectives(_plain_unicode(text))
    elif " " in text and ("text" in text or any(word in text for word in LATIN_CONNECTIVES)):
        text = with_english_connectives(text)
    if 'nswer"' in text:
        text = without_json(text)
    text = _peel(text)
    if "C" in text and "_" in text:
        text = without_layout(text)
    if _SAFE.fullmatch(text):
        if "{" in text:
            text = _commas(text)
        if "pi" in text:
            text = _BARE_PI.sub(r"\\pi ", text)
        return _tidy_comparisons(_spaced_thousands(_SPACES.sub(" ", text)).strip())
    text = _commas(without_layout(text))
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if "\\choose" in text:
        text = _CHOOSE.sub(lambda m: f"\\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
    if "box" in text:
        text = _unboxed(text)
    text = without_si(text)
    if "." in text:
        text = _NO_BRACKET.sub(" ", text)
    text = _COLOR.sub(" ", text)
    text = _COMMAND.sub(_command, text)
    text = _MATHBB.sub(r"\\mathbb{\1}", text) if "\\mathb" in text else text
    if "\\text" in text:
        text = plain_units(_TEXT_UNBRACED.sub(r"\\text{\1}", text))
        text = _TEXT_GROUP.sub(_text_group, text)
        if "{}" in text or "{ }" in text:
            text = _NO_TEXT.sub(" ", text)
    if "const" in text or "Const" in text:
        text = _SAID_CONSTANT.sub(r"\1 C", text)
    if "circ" in text:
        text = _CIRCLE.sub(r"^\\circ ", text)
    if "\\prime" in text:
        text = _MARKS.sub(lambda m: "'" * (m[1] or m[2]).count("prime"), text)
    text = _DOT_BEFORE_BRACKET.sub("", text.replace("~", " "))
    if "pi" in text:
        text = _BARE_PI.sub(r"\\pi ", text)
    text = _tidy_comparisons(text)
    text = _dollars(text)
    text = _peel(_SPACES.sub(" ", text))
    return _spaced_thousands(text).strip()


def unwrapped_text(text: str) -> str:
    r"""The text with `\text{..}` groups replaced by their content.

    >>> unwrapped_text(r"5 \text{ cm}^2")
    '5  cm^2'
    """
    return _TEXT_GROUP.sub(r"\1", text) if "\\text" in text else text


def compact(text: str) -> str:
    """The text without spaces, except those between digits."""
    return _SPACE.sub("", text) if " " in text else text


def is_balanced(text: str) -> bool:
    """Whether all brackets are balanced; "(" and "]" may form a pair, as in a half-open interval."""
    depth = braces = 0
    previous = ""
    for character in text:
        if character in "{}" and previous != "\\":
            braces += 1 if character == "{" else -1
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if depth < 0 or braces < 0:
            return False
        previous = character
    return depth == 0 and braces == 0


def split_outside(text: str, separators: str) -> list[str]:
    """The stripped pieces between those separators that are outside all brackets.

    >>> split_outside("(1,2), f(3,4), 5", ",")
    ['(1,2)', 'f(3,4)', '5']
    """
    pieces: list[str] = []
    depth = start = 0
    for index, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and character in separators:
            pieces.append(text[start:index].strip())
            start = index + 1
    pieces.append(text[start:].strip())
    return pieces


def _plain_unicode(text: str) -> str:
    text = _CIRCLED_RUN.sub(lambda m: ",".join(str(ord(c) - 0x245F) for c in m[0]), text)
    text = _ROOT.sub(lambda m: f"\\sqrt{_ROOT_INDEX[m[1]]}{{{m[2] or m[3] or m[4] or ''}}}", text)
    text = _RAISED_RUN.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = text.translate(_UNICODE)
    if text.isascii():
        return text
    return "".join(
        unicodedata.normalize("NFKC", c) if c not in "≤≥≠≈∪∩∈∉∖∅€£¥₹" and not c.isascii() else c for c in text
    )


def _unboxed(text: str) -> str:
    """The text with inner boxes replaced by their content."""
    for _ in range(20):
        match = _BOX.search(text)
        if match is None:
            break
        end = _closing(text, match.end() - 1)
        if end < 0:
            break
        text = f"{text[: match.start()]} {text[match.end() : end]} {text[end + 1 :]}"
    return text


def _commas(text: str) -> str:
    if "\\!" in text:
        text = _BACKSLASH_SPACE_COMMA.sub(",", text)
    if "{" in text:
        if "," in text:
            text = _BRACED_COMMA.sub(_braced_comma, text)
        text = _BRACED_SIGN.sub(r"\1", text)
    return text


def _braced_comma(match: re.Match[str]) -> str:
    digits = match[1] or ""
    if len(digits) == 3:
        return digits
    return "." + digits if digits else ","


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name is None:  # the end of a row, with an optional row height
        return "\\\\ "
    return _COMMANDS.get(name, match[0])


def _text_group(match: re.Match[str]) -> str:
    inner = match[1]
    name = inner.strip()
    if name in _FUNCTION_NAMES:
        return "\\" + name + " "
    if len(name) == 1 and name.isalpha() and name == inner and name in "eidxyzRZ":
        return " " + name + " "
    return match[0]


def _tidy_comparisons(text: str) -> str:
    if "=" in text:
        text = text.replace("<=", "≤").replace(">=", "≥").replace("=<", "≤").replace("\\not≈", "≠")
        text = text.replace("\\not =", "≠").replace("\\not=", "≠").replace("==", "=")
        if "!=" in text:
            text = _FACTORIAL_OR_UNEQUAL.sub(" ≠ ", text)
            text = text.replace(" !=", " ≠")
    return text


def _spaced_thousands(text: str) -> str:
    if "'" in text:
        text = _MARKED_THOUSANDS.sub(lambda m: m[0].replace("'", ""), text)
    if " " in text:
        return _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    return text


def _dollars(text: str) -> str:
    r"""The text with dollar signs escaped (`\$`) if they mean money, else removed."""
    bare = text.replace("\\$", "")
    count = bare.count("$")
    if count == 0:
        return text
    if count == 1 and (re.match(r"\s*[-+(]?\s*[A-Z]{0,3}\s?\$\s*[-\d.]", bare) or re.search(r"\d\s*\$\s*$", bare)):
        return text.replace("$", "\\$").replace("\\\\$", "\\$")
    text = _APART.sub(" , ", text)
    return re.sub(r"(?<!\\)\$", " ", text)


_PAIRS = {  # last character -> the pairs of delimiters that end with it
    "$": (("$$", "$$"), ("$", "$")),
    ")": (("\\(", "\\)"),),
    "]": (("\\[", "\\]"),),
    "*": (("**", "**"),),
    "`": (("`", "`"),),
    "_": (("__", "__"),),
    '"': (('"', '"'),),
}
_WRAPPERS = (
    "{", "\\boxed{", "\\fbox{", "\\text{", "\\mathbf{", "\\boldsymbol{", "\\bm{", "\\mathit{", "\\displaystyle{",
)  # fmt: skip
_BRACE = re.compile(r"(?<!\\)[{}]")


def _peel(text: str) -> str:
    """The text without anything that encloses all of it: delimiters, emphasis, braces, a final dot."""
    for _ in range(12):
        before = text
        text = text.strip()
        if text.endswith(("...", "dots")):
            text = _REPEATING.sub(r"\1\\overline{\2}", text)
        while text and text[-1] in ".,;:" and not text.endswith(("\\,", "\\;", "\\:")):
            text = text[:-1].rstrip()
        if not text:
            break
        if text[-1] == "\\":
            text = text.rstrip("\\").rstrip()
        if text.startswith((",", ";", ":")):
            text = text[1:].lstrip()
        last = text[-1:]
        for opening, closing in _PAIRS.get(last, ()):
            inner = text[len(opening) : -len(closing)]
            if (
                len(text) > len(opening) + len(closing)
                and text.startswith(opening)
                and text.endswith(closing)
                and opening not in inner
                and not (opening == "$" and inner.endswith("\\"))
            ):
                text = inner
                break
        if text.endswith("}") and text.startswith(_WRAPPERS):
            start = text.index("{")
            if _closing(text, start) == len(text) - 1:
                text = text[start + 1 : -1]
        if text == before:
            break
    return text


def _closing(text: str, start: int) -> int:
    """The position of the brace that closes the one at `start`; -1 if there is none."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return -1
