"""The table of units: for each name its base dimensions and its size."""

from fractions import Fraction

Dims = tuple[tuple[str, int], ...]
Measure = tuple[Dims, Fraction]

_PREFIXES = {
    "p": Fraction(1, 10**12), "n": Fraction(1, 10**9), "μ": Fraction(1, 10**6), "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000), "c": Fraction(1, 100), "h": Fraction(100), "k": Fraction(1000),
    "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
}  # fmt: skip
_PREFIX_WORDS = {
    "pico": "p", "nano": "n", "micro": "μ", "milli": "m", "centi": "c", "kilo": "k", "mega": "M", "giga": "G",
    "tera": "T",
}  # fmt: skip
_ENERGY = {"length": 2, "mass": 1, "time": -2}
_VOLTAGE = {"length": 2, "mass": 1, "time": -3, "ampere": -1}
# symbol -> (words, common prefixes, dimensions)
_SYMBOLS: dict[str, tuple[str, str, dict[str, int]]] = {
    "Hz": ("hertz", "mkMGT", {"time": -1}),
    "Bq": ("becquerel", "kM", {"time": -1}),
    "N": ("newton", "nμmkM", {"length": 1, "mass": 1, "time": -2}),
    "J": ("joule", "μmkMGT", _ENERGY),
    "W": ("watt", "nμmkMGT", {"length": 2, "mass": 1, "time": -3}),
    "Pa": ("pascal", "mhkMG", {"length": -1, "mass": 1, "time": -2}),
    "A": ("ampere amp", "nμmk", {"ampere": 1}),
    "C": ("coulomb", "pnμmk", {"ampere": 1, "time": 1}),
    "V": ("volt", "nμmkM", _VOLTAGE),
    "Ω": ("ohm \\Omega", "mkM", {"length": 2, "mass": 1, "time": -3, "ampere": -2}),
    "F": ("farad", "pnμm", {"length": -2, "mass": -1, "time": 4, "ampere": 2}),
    "T": ("tesla", "nμm", {"mass": 1, "time": -2, "ampere": -1}),
    "Wb": ("weber", "μm", {"length": 2, "mass": 1, "time": -2, "ampere": -1}),
    "H": ("henry", "μm", {"length": 2, "mass": 1, "time": -2, "ampere": -2}),
    "K": ("kelvin", "μm", {"kelvin": 1}),
    "mol": ("mole", "nμmk", {"mole": 1}),
    "cd": ("candela", "", {"candela": 1}),
    "eV": ("electronvolt", "mkMGT", {"electronvolt": 1}),
}


def _table() -> dict[str, Measure]:
    """Name -> dimensions and size. Symbols keep their case; words are lower case and singular."""
    f = Fraction
    length = {
        "nm nanometer nanometre": f(1, 10**9), "μm um micrometer micrometre micron": f(1, 10**6),
        "mm millimeter millimetre": f(1, 1000), "Å å angstrom ångström \\AA": f(1, 10**10),
        "cm centimeter centimetre": f(1, 100), "dm decimeter decimetre": f(1, 10), "m meter metre": f(1),
        "km kilometer kilometre": f(1000),
        "inch in": f(254, 10000), "ft foot feet": f(3048, 10000), "yd yard": f(9144, 10000),
        "mi mile": f(1609344, 1000),
        "lightyear ly": f(9460730472580800), "furlong": f(201168, 1000),
    }  # fmt: skip
    mass = {
        "μg ug microgram": f(1, 10**9),
        "mg milligram": f(1, 10**6),
        "g gram gm": f(1, 1000),
        "kg kilogram kilo": f(1),
        "tonne ton": f(1000),
        "lb lbs pound": f(45359237, 10**8),
        "oz ounce": f(45359237, 16 * 10**8),
    }
    time = {
        "ps picosecond": f(1, 10**12),
        "ns nanosecond": f(1, 10**9), "μs us microsecond": f(1, 10**6), "ms millisecond": f(1, 1000),
        "s sec second": f(1),
        "min minute": f(60), "h hr hour": f(3600), "d day": f(86400), "week wk": f(604800),
    }  # fmt: skip
    volume = {
        "mL ml milliliter millilitre cc": f(1, 10**6), "cL cl centiliter centilitre": f(1, 10**5),
        "dL dl": f(1, 10**4), "L l liter litre": f(1, 1000), "μL uL microliter microlitre": f(1, 10**9),
        "gallon gal": f(3785411784, 10**12), "quart qt": f(3785411784, 4 * 10**12),
        "pint pt": f(3785411784, 8 * 10**12),
    }  # fmt: skip
    pressure = {"atm atmosphere": f(101325), "bar": f(10**5), "mbar": f(100), "torr": f(101325, 760)}
    speed = {"mph": f(1609344, 3600000), "kmh kph kmph": f(5, 18), "fps": f(3048, 10000), "knot": f(1852, 3600)}
    per_volume = {"mole": 1, "length": -3}
    groups: list[tuple[dict[str, int], dict[str, Fraction]]] = [
        ({"length": 1}, length), ({"mass": 1}, mass), ({"time": 1}, time), ({"length": 3}, volume),
        ({"length": 1, "time": -1}, speed), (dict(_SYMBOLS["Pa"][2]), pressure),
        ({"month": 1}, {"month": f(1), "year yr": f(12), "decade": f(120), "century": f(1200)}),
        ({"length": 2}, {"acre": f(40468564224, 10**7), "hectare ha": f(10000)}),
        ({"dollar": 1}, {"\\$ $ dollar usd buck": f(1), "cent ¢": f(1, 100)}),
        ({"euro": 1}, {"€ euro eur": f(1)}), ({"pound sterling": 1}, {"£ gbp": f(1)}),
        ({"yen": 1}, {"¥ yen jpy": f(1)}), ({"yuan": 1}, {"yuan rmb cny renminbi": f(1), "jiao": f(1, 10)}),
        ({"rupee": 1}, {"₹ rupee rs inr": f(1)}), ({"franc": 1}, {"chf franc": f(1)}),
        ({"won": 1}, {"₩ won krw": f(1)}), ({"rouble": 1}, {"₽ ruble rouble rub": f(1)}),
        ({"degree": 1}, {"degree deg ^\\circ": f(1)}), ({"radian": 1}, {"rad radian": f(1)}),
        ({"celsius": 1}, {"^\\circC °c celsius centigrade": f(1)}),
        ({"fahrenheit": 1}, {"^\\circF °f fahrenheit": f(1)}),
        (per_volume, {"M molar": f(1000), "mM": f(1)}),
        ({"byte": 1}, {"byte": f(1), "kb kilobyte": f(1000), "mb megabyte": f(10**6), "gb gigabyte": f(10**9)}),
        ({"calorie": 1}, {"cal calorie": f(1), "kcal kilocalorie": f(1000)}),
        (_ENERGY, {"Wh": f(3600), "kWh": f(3600000), "MWh": f(3600 * 10**6), "Nm Ws": f(1), "kNm": f(1000)}),
        ({"ampere": 1, "time": 1}, {"Ah": f(3600), "mAh": f(36, 10)}),
    ]  # fmt: skip
    table = {
        name: (_sorted(dimensions), factor)
        for dimensions, entries in groups
        for names, factor in entries.items()
        for name in names.split()
    }
    for symbol, (words, prefixes, dimensions) in _SYMBOLS.items():
        measure = _sorted(dimensions)
        for name in (symbol, *words.split()):
            table[name] = (measure, f(1))
        for prefix in prefixes.replace("μ", "μu"):
            table[prefix + symbol] = (measure, _PREFIXES[prefix])
        for prefix_word, prefix in _PREFIX_WORDS.items():
            for word in words.split():
                table[prefix_word + word] = (measure, _PREFIXES[prefix])
    return table


def _sorted(dimensions: dict[str, int]) -> Dims:
    return tuple(sorted(dimensions.items()))


UNITS = _table()
SYMBOLS = tuple(sorted((name for name in UNITS if name.isalpha() and len(name) <= 3), key=len, reverse=True))
