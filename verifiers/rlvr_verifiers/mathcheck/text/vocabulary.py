"""The words and commands that the lexer knows, and their tokens."""


def words(text: str) -> list[str]:
    """The words of a text: keeps tables of words compact."""
    return text.split()


def _tokens(*rows: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """For each row (kind, spellings): every spelling -> the token (kind, "")."""
    return {spelling: (kind, "") for kind, spellings in rows for spelling in words(spellings)}


GREEK = {
    name: name
    for name in words(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma"
        " tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
    )
} | {f"var{name}": name for name in words("epsilon theta phi rho sigma")}

# spelling of a function -> its name in the tree
FUNCTIONS = {
    name: name
    for name in words(
        "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch"
        " arsinh arcosh artanh ln lg log exp gcd lcm max min floor ceil abs sgn arg cis cbrt"
    )
} | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh",
    "asinh": "arsinh", "acosh": "arcosh", "atanh": "artanh", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "arctg": "arctan", "Re": "re", "Im": "im", "sign": "sgn", "ceiling": "ceil", "Max": "max", "Min": "min",
}  # fmt: skip
TRIGONOMETRIC = frozenset(words("sin cos tan cot sec csc sinh cosh tanh coth sech csch"))
INVERSE = {name: f"arc{name}" for name in words("sin cos tan cot sec csc")} | {
    "sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh",
}  # fmt: skip

# a run of plain letters -> a token
WORDS: dict[str, tuple[str, str]] = (
    {word: ("func", name) for word, name in FUNCTIONS.items()}
    | {word: ("name", name) for word, name in GREEK.items() if len(word) > 2}
    | _tokens(("sqrt", "sqrt"), ("degree", "deg degree degrees"), ("mod", "mod"), ("binom", "binom"))
    | dict.fromkeys(words("pi Pi"), ("const", "pi"))
    | dict.fromkeys(words("oo inf infinity Infinity"), ("const", "oo"))
    | {name: ("name", name) for name in words("mu nu xi")}
)
# short runs of letters that are words, not products
ENGLISH = frozenset(
    words(
        "and or of to is no yes the none both all not any are if else for on in by at an as we it so has"
        " true only odd even such that when with one two four five six nine ten lim sum int see let"
    )
)

# a command of LaTeX (without its backslash) -> a token; ("", "") is layout and dropped
COMMANDS: dict[str, tuple[str, str]] = (
    {word: ("func", name) for word, name in FUNCTIONS.items() if word not in ("abs", "floor")}
    | {word: ("name", name) for word, name in GREEK.items()}
    | dict.fromkeys(
        words(
            ", ! ; : > left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle"
            " quad qquad displaystyle textstyle scriptstyle limits nolimits thinspace medspace thickspace"
            " enspace space rm it bf mathstrut strut nonumber"
        ),
        ("", ""),
    )
    | {" ": ("", ""), "\n": ("", "")}
    | _tokens(
        ("*", "cdot times ast"), ("/", "div"), ("over", "over"), ("frac", "frac dfrac tfrac cfrac sfrac nicefrac"),
        ("sqrt", "sqrt surd"), ("binom", "binom dbinom tbinom"), ("choose", "choose"), ("pm", "pm"), ("mp", "mp"),
        ("degree", "circ degree"), ("'", "prime"), ("%", "%"), ("\\{", "{ lbrace"), ("\\}", "} rbrace"),
        ("abs(", "lvert lVert"), (")abs", "rvert rVert"), ("|", "| vert Vert mid"), ("floor(", "lfloor"),
        (")floor", "rfloor"), ("ceil(", "lceil"), (")ceil", "rceil"), ("[", "lbrack"), ("]", "rbrack"),
        ("(", "lparen"), (")", "rparen"), ("mod", "bmod mod"), ("pmod", "pmod"), ("overline", "overline bar"),
        ("vec", "hat widehat vec overrightarrow"), ("tilde", "tilde widetilde"), ("int", "int iint iiint oint"),
        ("sum", "sum"), ("prod", "prod"), ("lim", "lim limsup liminf"), ("to", "to rightarrow"),
    )
    | {"pi": ("const", "pi"), "infty": ("const", "oo"), "imath": ("const", "i"), "jmath": ("name", "j")}
    | {"partial": ("name", "partial")}
    | dict.fromkeys(words("ldots cdots dots"), ("name", "dots"))
)  # fmt: skip

# commands whose argument is a word or a letter in another font
FONTS = frozenset(
    words(
        "text textrm textit textnormal mbox hbox mathrm operatorname operatorname* mathit mathsf mathtt"
        " mathcal mathscr mathfrak texttt textsf"
    )
)
BOLD = frozenset(words("mathbf textbf boldsymbol bm bold pmb"))

# Unicode character -> LaTeX
UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "∗": "*",
        "÷": "/", "∕": "/", "⁄": "/", "√": "\\sqrt ", "∞": "\\infty ", "±": "\\pm ", "∓": "\\mp ",
        "°": "\\degree ", "′": "'", "’": "'", "″": "''", "π": "\\pi ", "²": "^{2}", "³": "^{3}", "¹": "^{1}",
        "⁴": "^{4}", "⁵": "^{5}", "⁶": "^{6}", "⁷": "^{7}", "⁸": "^{8}", "⁹": "^{9}", "⁰": "^{0}",
        "½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
        "…": "\\ldots ", "⋯": "\\ldots ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ",
        "∣": "|", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2061": "", "\u200b": "", "\u2062": " ",
        "ℓ": "\\ell ",
    }
    | {
        character: f"\\{name} "
        for character, name in zip(
            "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩϕϵ",
            words(
                "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau"
                " upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega phi epsilon"
            ),
            strict=True,
        )
    }
)  # fmt: skip

# the kinds of token that may begin a factor
STARTS = frozenset(
    words("num name const func frac sqrt binom ( [ { abs( floor( ceil( overline vec tilde int sum prod lim")
)
