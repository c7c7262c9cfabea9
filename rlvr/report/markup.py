"""HTML escaping, number formats, and the style of the page."""

import html
import unicodedata

from rlvr.report.files import finite


def escaped(value: object) -> str:
    """The text escaped for HTML; invisible characters are shown by their code point.

    >>> escaped("<b>\\u202e")
    '&lt;b&gt;⟨U+202E⟩'
    """
    text = "".join(
        f"⟨U+{ord(c):04X}⟩" if c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c
        for c in str(value)
    )
    return html.escape(text)


def number(value: object) -> str:
    """A readable number: three significant digits, whole numbers in full, a dash for none.

    >>> number(0.58505), number(12345.0), number(0.0000123), number(None), number(26182.75)
    ('0.585', '12,345', '1.23e-05', '–', '26,183')
    """
    known = finite(value)
    if known is None:
        return "–"
    if known == int(known) and abs(known) < 1e15:
        return f"{int(known):,}"
    if abs(known) >= 1000:
        return f"{known:,.0f}"
    return f"{known:.3g}"


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> duration(51.3), duration(521.2), duration(8000)
    ('51.3 s', '8 min 41 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


STYLE = """
:root { color-scheme: light dark; --ground:#fbfbfa; --card:#fff; --ink:#23262b; --soft:#6a7079; --line:#e4e4e0;
  --s1:#2f6db5; --s2:#c77d1f; --s3:#3d8f6e; --s4:#8a63b0; --good:#23744f; --bad:#a8403a; --odd:#8a6412; }
@media (prefers-color-scheme: dark) { :root { --ground:#16181c; --card:#1e2126; --ink:#e3e5e8; --soft:#9aa1ab;
  --line:#333840; --s1:#74a9e6; --s2:#dfa152; --s3:#6fbf9c; --s4:#b99adb;
  --good:#7ccba6; --bad:#e58f88; --odd:#d9b75f; } }
* { box-sizing:border-box; }
body { margin:0 auto; max-width:1080px; padding:2rem 1.2rem 4rem; background:var(--ground); color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif; }
h1 { font-size:1.6rem; margin:0; } h2 { font-size:1.15rem; margin:2.6rem 0 .8rem; }
h3 { font-size:1rem; margin:1.4rem 0 .4rem; }
p { margin:.4rem 0; } .soft { color:var(--soft); } .good { color:var(--good); } .bad { color:var(--bad); }
.odd { color:var(--odd); }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(190px,1fr)); gap:.8rem; margin:1.4rem 0; }
.tile, figure, details, .pair > div { background:var(--card); border:1px solid var(--line); border-radius:8px; }
.tile { padding:.7rem .9rem; } .tile b { display:block; font-size:1.3rem; font-weight:600; }
.tile span { color:var(--soft); font-size:.85rem; }
figure { margin:0; padding:.7rem .8rem .4rem; min-width:0; } figure svg { display:block; width:100%; height:auto; }
figcaption { display:flex; flex-wrap:wrap; justify-content:space-between; gap:0 .8rem;
  font-size:.88rem; font-weight:600; }
figcaption .soft { font-weight:400; }
.charts { display:grid; grid-template-columns:repeat(auto-fill,minmax(300px,1fr)); gap:.8rem; }
.wide { display:grid; gap:.8rem; }
svg text { fill:var(--soft); font-size:11px; }
/* A wide picture is drawn 680 units wide and scaled to the page: its labels keep their size on a narrow one. */
.wide svg { overflow:visible; } .wide svg text { font-size:8px; }
@media (max-width:900px) { .wide svg text { font-size:12px; } }
@media (max-width:560px) { .wide svg text { font-size:22px; transform:translateY(6px); }
  .wide svg .line { stroke-width:3.5; } .wide svg circle { r:6px; } }
figure.alarmed { border-color:var(--bad); } svg .alarm { fill:var(--bad); opacity:.13; }
svg .bound { stroke:var(--bad); stroke-width:1; stroke-dasharray:4 3; }
svg .grid { stroke:var(--line); stroke-width:1; }
svg .line { fill:none; stroke-width:1.8; stroke-linejoin:round; } svg .band { opacity:.18; }
svg .area { opacity:.75; }
.s1 { stroke:var(--s1); } .s2 { stroke:var(--s2); } .s3 { stroke:var(--s3); }
.f1 { fill:var(--s1); background:var(--s1); } .f2 { fill:var(--s2); background:var(--s2); }
.f3 { fill:var(--s3); background:var(--s3); } .f4 { fill:var(--s4); background:var(--s4); }
.key { display:inline-block; width:.7em; height:.7em; border-radius:2px; margin:0 .3em 0 .7em; }
table { border-collapse:collapse; width:100%; font-size:.88rem; } .scroll { overflow-x:auto; }
th, td { text-align:left; padding:.3rem .6rem; border-bottom:1px solid var(--line); vertical-align:top;
  overflow-wrap:anywhere; }
th { color:var(--soft); font-weight:500; } td.tight { white-space:nowrap; }
details { margin:.5rem 0; padding:.5rem .8rem; } summary { cursor:pointer; overflow-wrap:anywhere; }
details > :last-child { margin-bottom:.3rem; }
pre { margin:.3rem 0; padding:.5rem .7rem; background:var(--ground); border:1px solid var(--line); border-radius:6px;
  font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; white-space:pre-wrap; overflow-wrap:anywhere;
  max-height:26rem; overflow-y:auto; }
.rollout { margin:.7rem 0 0; padding-left:.8rem; border-left:3px solid var(--line); }
.rollout.pass { border-color:var(--good); }
.rollout.error { border-color:var(--odd); } .facts { display:flex; flex-wrap:wrap; gap:0 1.1rem; font-size:.88rem; }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(280px,1fr)); gap:.8rem; }
.pair > div { padding:.5rem .8rem; min-width:0; }
"""
