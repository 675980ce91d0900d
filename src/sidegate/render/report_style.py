"""The report's style sheet: one column, light and dark, for screens of any size and for paper."""

from __future__ import annotations

from sidegate.render.palette import DARK, LIGHT, MONO, SANS, Palette
from sidegate.render.picture import Tone

ASIDE = '<p class="aside">Wider than this screen: swipe sideways.</p>'
"""Is seen on narrow screens only."""
_SHAPE = """
*{box-sizing:border-box}
body{margin:0;font:16px/1.6 $sans;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}
p{max-width:74ch}
h1{font-size:clamp(26px,5vw,40px);line-height:1.15;margin:.2em 0 .5em;letter-spacing:-.015em;max-width:24ch}
h2{font-size:22px;line-height:1.3;margin:2.2em 0 .6em}
.kicker{margin:0;font-size:14px}
.lead{font-size:18px}
small{display:block;font-size:13px;line-height:1.4}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:1.6em 0}
.figures div{border:1px solid;border-radius:10px;padding:12px 14px;display:flex;flex-direction:column-reverse;
  justify-content:flex-end}
.figures dd{margin:0;font-size:26px;font-weight:650;line-height:1.3}
.figures dt{font-size:14px;line-height:1.4}
figure{margin:0 0 28px;overflow-x:auto}
figcaption{padding:0 0 8px;position:sticky;left:0}
figure>svg{display:block;width:100%;height:auto;min-width:760px}
.scroll{overflow-x:auto}
.aside{display:none;font-size:13px;margin:0 0 6px}
table{border-collapse:collapse;width:100%;min-width:640px;font-size:15px}
th,td{text-align:left;vertical-align:top;padding:9px 12px;border-bottom:1px solid;overflow-wrap:normal}
.tone{font-weight:600;white-space:nowrap}
.tone svg{vertical-align:-2.5px}
.tone path{fill:none;stroke-width:1.7;stroke-linecap:round}
details{border:1px solid;border-radius:10px;margin:8px 0;padding:0 14px}
summary{cursor:pointer;padding:10px 0}
summary .tone{white-space:normal;margin-left:10px}
details p{margin:.2em 0 .6em}
.evidence{list-style:none;margin:0 0 14px;padding:0;font:13px/1.55 $mono}
.evidence li{display:flex;gap:14px}
time{flex:0 0 9ch;text-align:right}
.bars{list-style:none;padding:0}
.bars li{margin:0 0 18px;display:flex;flex-wrap:wrap;justify-content:space-between;column-gap:16px}
.bars i{display:block;flex:0 0 100%;height:16px;border-radius:4px;overflow:hidden}
.bars i i{height:100%;min-width:2px}
pre{padding:14px 16px;border-radius:10px;overflow-x:auto;font:14px/1.5 $mono}
code{font:inherit}
footer{font-size:14px;margin-top:3em}
footer h2{font-size:17px}
footer ul{padding-left:1.2em}
"""
_NARROW = """
@media (max-width:700px){.aside{display:block}
th,td{padding:9px 8px}
tbody th,thead tr:first-child th:first-child{position:sticky;left:0}
}
"""
"""Tables and pictures are wider than a phone: what a row is about stays in sight."""
_PRINT = """
@media print{.aside{display:none}
main{max-width:none;padding:0}
h1{font-size:26px}
h2{break-after:avoid}
figure,tr,li,details{break-inside:avoid}
.scroll,figure{overflow:visible}
figure>svg{min-width:0;max-height:230mm}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""


def style_sheet() -> str:
    """All rules. On paper the light colours hold, whatever the screen shows."""
    shape = _SHAPE.replace("$sans", SANS).replace("$mono", MONO)
    dark = f"@media screen and (prefers-color-scheme:dark){{{_colours(DARK)}}}"
    return shape + _colours(LIGHT) + dark + _NARROW + _PRINT


def _colours(p: Palette) -> str:
    tones: tuple[Tone, ...] = ("good", "costly", "bad", "unknown")
    rules = [
        f"body{{background:{p.card};color:{p.text}}}",
        f".kicker,.lead,small,figcaption,dt,footer,.none,time{{color:{p.muted}}}",
        f"h1,h2,b,th,dd{{color:{p.text}}}",
        f"th,td,details,.figures div{{border-color:{p.card_line}}}",
        f"tbody th{{background:{p.card}}}.aside{{color:{p.muted}}}",
        f"thead th,pre,.figures div,details{{background:{p.page}}}",
        f".bars i{{background:{p.box}}}.bars i i{{background:{p.radio}}}",
        *(f".{t}{{color:{p.tone(t)}}}.{t} circle{{fill:{p.tone(t)}}}" for t in tones),
        f".tone path{{stroke:{p.sign}}}",
        f":focus-visible{{outline:2px solid {p.gateway_line}}}",
    ]
    return "".join(rules)
