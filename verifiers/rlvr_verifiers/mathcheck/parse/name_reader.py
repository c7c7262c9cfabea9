"""Reads names: variables with subscripts, primes and accents, constants, unknown functions, combinations."""

from rlvr_verifiers.mathcheck.parse.cursor import Cursor
from rlvr_verifiers.mathcheck.tree.nodes import Apply, Const, Expr, Func, Var

_APPLIED = frozenset(("f", "g", "h", "F", "G", "H", "phi", "psi"))


class NameReader(Cursor):
    """The part of the parser that reads names."""

    def name_atom(self) -> Expr:
        kinds = self.kinds
        name = letter = self.values[self.at]
        self.at += 1
        if letter == "C":
            chosen = self.combinations()
            if chosen is not None:
                return chosen
        if kinds[self.at] == "_":
            self.at += 1
            name += "_" + self.subscript()
        primes = self.primes()
        if kinds[self.at] == "_" and primes:
            self.at += 1
            name += "_" + self.subscript()
        name += primes
        if letter in _APPLIED or primes:
            if kinds[self.at] == "^":
                inverse = self.inverse_mark()
                if inverse:
                    return Apply(name + inverse, self.arguments())
            if kinds[self.at] == "(":
                return Apply(name, self.arguments())
        return Var(name)

    def const_atom(self) -> Expr:
        name = self.values[self.at]
        self.at += 1
        if self.kinds[self.at] in ("_", "'"):  # e_1, i_0, e' are variables
            self.at -= 1
            return self.name_atom()
        return Const(name)

    def combinations(self) -> Expr | None:
        """C(8,3), C_8^3 and C_{8}^{3} as binomials; None, with nothing consumed, for another use of the letter."""
        kinds, values, start = self.kinds, self.values, self.at
        if kinds[start] == "(" and kinds[start + 2] == ",":
            arguments = self.arguments()
            if len(arguments) == 2:
                return Func("binom", arguments)
            self.at = start
            return None
        plain = [
            (kind, value)
            for kind, value in zip(kinds[start : start + 8], values[start : start + 8], strict=True)
            if kind not in ("{", "}")
        ]
        if [kind for kind, _ in plain[:4]] != ["_", "num", "^", "num"]:
            return None
        top, bottom = plain[1][1], plain[3][1]
        if not (top.isdigit() and bottom.isdigit() and int(bottom) <= int(top)):
            return None
        self.at += 1
        first = self.unit(whole_number=True)
        self.expect("^")
        return Func("binom", (first, self.unit(whole_number=True)))

    def primes(self) -> str:
        r"""The primes that follow, written ', ^\prime or ^{\prime\prime}; consumes them."""
        kinds = self.kinds
        primes = ""
        while True:
            if kinds[self.at] == "'":
                primes += "'"
                self.at += 1
            elif kinds[self.at] == "^" and kinds[self.at + 1] == "'":
                self.at += 1
            elif kinds[self.at] == "^" and kinds[self.at + 1] == "{" and kinds[self.at + 2] == "'":
                self.at += 2
                while kinds[self.at] == "'":
                    primes += "'"
                    self.at += 1
                self.expect("}")
            else:
                return primes

    def inverse_mark(self) -> str:
        """The mark of an inverse or n-th derivative, f^{-1}( or f^{(n)}(; "", with nothing consumed, without one."""
        start = self.at
        kinds = self.kinds
        tokens: list[str] = []
        at = start + 1
        if kinds[at] == "{":
            while kinds[at] not in ("}", "end"):
                tokens.append(self.values[at] or kinds[at])
                at += 1
        inside = "".join(tokens[1:])
        if (inside == "-1" or (inside.startswith("(") and inside.endswith(")"))) and kinds[at + 1] == "(":
            self.at = at + 1
            return f"^{inside}"
        return ""

    def subscript(self) -> str:
        """The text of a subscript: {n+1} is "n+1", one token otherwise."""
        kinds, values = self.kinds, self.values
        if kinds[self.at] != "{":
            kind = kinds[self.at]
            if kind not in ("num", "name", "const"):
                raise self.error()
            self.at += 1
            return values[self.at - 1]
        found: list[str] = []
        depth = 0
        while True:
            kind = kinds[self.at]
            if kind == "end":
                raise self.error()
            depth += (kind == "{") - (kind == "}")
            self.at += 1
            if depth == 0:
                return "".join(found).removeprefix("text:")
            if kind not in ("{", "}") or depth > 1:
                found.append(values[self.at - 1] or kind)

    def overline(self) -> Expr:
        r"""\overline over one letter is a name, over several a segment or a digit string, otherwise a conjugate."""
        start = self.at + 1
        inner = self.accented("bar:")
        if inner is not None:
            return inner
        kinds, values = self.kinds, self.values
        end = start + 1
        while kinds[end] in ("name", "num"):
            end += 1
        if kinds[start] == "{" and kinds[end] == "}" and end > start + 2:
            self.at = end + 1
            return Var("overline:" + "".join(values[start + 1 : end]))
        self.at = start
        return Func("conj", (self.unit(),))

    def vector(self) -> Expr:
        named = self.accented("vec:")
        if named is None:
            raise self.error()
        return named

    def tilde(self) -> Expr:
        named = self.accented("tilde:")
        if named is None:
            raise self.error()
        return named

    def accented(self, accent: str) -> Expr | None:
        r"""\vec{a}, \hat i, \bar{z}, \vec{AB}: an accent over letters, as a name; None for anything else."""
        kinds, values = self.kinds, self.values
        at = self.at + 1
        is_group = kinds[at] == "{"
        at += is_group
        end = at
        while kinds[end] in ("name", "const") and (is_group or end == at):
            end += 1
        if end == at or (is_group and kinds[end] != "}") or (accent != "vec:" and end > at + 1):
            return None
        self.at = end + is_group
        name = accent + "".join(values[at:end]).replace("vec:", "")
        if kinds[self.at] == "_":
            self.at += 1
            name += "_" + self.subscript()
        return Var(name)
