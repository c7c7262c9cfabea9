"""English equivalents of connectives, units and scales in other languages."""

import re

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_OR = "或者 或是 或 oder ou или ou bien または もしくは 또는"
_AND = "以及 并且 和 与 與 及 且 und et и e と および 및 그리고 y"
_SHORT = frozenset(["y", "e", "o", "u"])  # variables, if outside `\\text`
_WORDS: dict[str, str] = {}
_WORDS.update(dict.fromkeys((*_OR.split(), "o", "u"), "or"))
_WORDS.update(dict.fromkeys(_AND.split(), "and"))
_ANY = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_LONG = "|".join(
    sorted((w for w in _WORDS if w.isalpha() and ord(w[0]) < 0x2000 and w not in _SHORT), key=len, reverse=True)
)
_IDEOGRAPHS = "|".join(sorted((w for w in _WORDS if ord(w[0]) > 0x2000), key=len, reverse=True))
_IN_TEXT = re.compile(rf"(\\(?:text|mathrm|textrm|mbox|textbf|textit)\s*\{{)\s*,?\s*({_ANY})\s*\}}", re.IGNORECASE)
_BETWEEN_FORMULAS = re.compile(rf"(?<=[\d)}}\]a-zA-Z$])\s*(?:{_IDEOGRAPHS})\s*(?=[-+\d(\\\[a-zA-Z$])")
_BETWEEN_SPACES = re.compile(rf"(?<=[\d)}}\]$])\s+({_LONG})\s+(?=[-+\d(\\\[a-zA-Z$])")

LATIN_CONNECTIVES = (" oder ", " ou ", " und ", " et ")

_UNITS = {
    "m": "米 公尺 メートル 미터 м метр метра метров metro metros mètre mètres meter",
    "km": "千米 公里 キロメートル 킬로미터 км километр километра километров kilómetro kilómetros kilomètres kilómetros",
    "cm": "厘米 公分 センチメートル 센티미터 см сантиметр сантиметра сантиметров centímetros centimètres zentimeter",
    "mm": "毫米 ミリメートル 밀리미터 мм миллиметров milímetros millimètres",
    "dm": "分米 дм",
    "kg": "千克 公斤 キログラム 킬로그램 кг килограмм килограмма килограммов kilogramos kilogrammes kilogramm",
    "g": "克 グラム 그램 г грамм грамма граммов gramos grammes gramm",
    "tonne": "吨 噸 톤 тонн тонны toneladas tonnes tonnen",
    "L": "升 リットル 리터 л литр литра литров litros litres",
    "mL": "毫升 ミリリットル 밀리리터 мл",
    "hour": "小时 小時 时 時間 시간 ч час часа часов hora horas heure heures stunde stunden ore",
    "minute": "分钟 分鐘 分间 分間 분 мин минут минуты минута minuto minutos minuten minuti",
    "second": "秒 秒钟 초 с секунд секунды секунда segundo segundos secondes sekunden sekunde secondi",
    "day": "天 日 일 день дня дней día días dia dias jour jours tag tage tagen giorni giorno",
    "week": "周 星期 週 週間 주 недель недели неделя semana semanas semaine semaines woche wochen",
    "month": "月 个月 個月 か月 개월 месяц месяца месяцев mes meses mois monat monate monaten",
    "year": "年 년 год года лет año años ano anos an ans année années jahr jahre jahren anni",
    "yuan": "元 块 塊 块钱 人民币", "jiao": "角", "dollar": "美元 美金 ドル 달러 доллар доллара долларов dólar dólares",
    "euro": "欧元 歐元 ユーロ 유로 евро", "yen": "円 日元", "won": "원 韩元", "rouble": "рубль рубля рублей руб",
    "degree": "度 도 градус градуса градусов grado grados grad degrés degré", "percent": "",
    "N": "牛 牛顿", "J": "焦 焦耳", "W": "瓦 瓦特", "V": "伏 伏特", "A": "安 安培", "Pa": "帕 帕斯卡",
}  # fmt: skip
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_POWERS = {"平方": "square ", "立方": "cubic ", "제곱": "square ", "квадратных ": "square ", "кв ": "square "}
SCALES = {
    "万": 10**4, "萬": 10**4, "百万": 10**6, "千万": 10**7, "亿": 10**8, "億": 10**8, "만": 10**4, "억": 10**8,
}  # fmt: skip
_REFUSED = re.compile("[一二三四五六七八九十百千零两多半几成折分之不没非或以至约左右第负]|반|절반|배(?![가-힣])")
_QUALIFIED = re.compile("^(?:约|大约|一共|共|总共|约为|是|为)")


def with_english_connectives(text: str) -> str:
    r"""The text with foreign connectives replaced by "and" and "or", between formulas or alone in a text group.

    >>> with_english_connectives(r"3 \text{ oder } 4")
    '3 \\text{ or } 4'
    """
    text = _IN_TEXT.sub(lambda match: f"\\text{{ {_WORDS[match[2].lower()]} }}", text)
    if text.isascii():
        return text if "e" not in text and "u" not in text else _BETWEEN_SPACES.sub(_spaced, text)
    text = _BETWEEN_FORMULAS.sub(lambda match: f" \\text{{ {_WORDS[match[0].strip()]} }} ", text)
    return _BETWEEN_SPACES.sub(_spaced, text)


def _spaced(match: re.Match[str]) -> str:
    return f" \\text{{ {_WORDS[match[1]]} }} "


def english_unit(word: str) -> str | None:
    """The English name of a unit in another language; "" for a counted noun; None for anything else.

    >>> english_unit("平方厘米"), english_unit("人"), english_unit("半")
    ('square cm', '', None)
    """
    word = word.strip()
    for power, english in _POWERS.items():
        if word.startswith(power):
            inner = english_unit(word.removeprefix(power))
            return f"{english}{inner}" if inner else None
    for sign in ("每", "/"):
        if sign in word:
            parts = [english_unit(part) for part in word.split(sign)]
            return " / ".join(part or "" for part in parts) if all(parts) else None
    if word.casefold() in _UNIT_OF:
        return _UNIT_OF[word.casefold()]
    return None if _REFUSED.search(word) else ""
