"""The colours of pictures and reports, for light and dark surroundings.

Text keeps a contrast of at least 4.5 : 1 on what it stands on (WCAG 2.2, success criterion 1.4.3); a test computes it.
A tone is never told by colour alone: it has a sign and words too.
"""

from __future__ import annotations

from msgspec import Struct

from sidegate.render.picture import Tone


class Palette(Struct, frozen=True):
    """Colours as #rrggbb. x_fill is the ground of x, x_line its outline, x_text text on it."""

    page: str
    text: str
    muted: str
    card: str
    card_line: str
    box: str
    box_line: str
    kernel: str
    kernel_line: str
    bridge: str
    bridge_text: str
    chip: str
    chip_text: str
    radio: str
    radio_text: str
    gateway: str
    gateway_line: str
    wire_line: str
    wifi_line: str
    good: str
    costly: str
    bad: str
    unknown: str
    sign: str

    def tone(self, tone: Tone) -> str:
        """The colour of this tone's sign and words."""
        return {"good": self.good, "costly": self.costly, "bad": self.bad, "unknown": self.unknown}[tone]


LIGHT = Palette(
    page="#f6f7f9",
    text="#18212d",
    muted="#55606f",
    card="#ffffff",
    card_line="#c6ced9",
    box="#e9eef6",
    box_line="#8496b3",
    kernel="#dbe4f1",
    kernel_line="#a3b4cf",
    bridge="#2f4a78",
    bridge_text="#ffffff",
    chip="#44505f",
    chip_text="#ffffff",
    radio="#0f6c9c",
    radio_text="#ffffff",
    gateway="#f1ebfd",
    gateway_line="#6b46c1",
    wire_line="#44505f",
    wifi_line="#0f6c9c",
    good="#12702f",
    costly="#8a5200",
    bad="#b3261e",
    unknown="#55606f",
    sign="#ffffff",
)

DARK = Palette(
    page="#12161c",
    text="#e9edf3",
    muted="#a3aebd",
    card="#1d232c",
    card_line="#3b4656",
    box="#19222f",
    box_line="#56688a",
    kernel="#202d40",
    kernel_line="#435774",
    bridge="#86a8e0",
    bridge_text="#0d1420",
    chip="#a9b5c4",
    chip_text="#12161c",
    radio="#5fb7e6",
    radio_text="#0d1420",
    gateway="#2b2344",
    gateway_line="#a78bfa",
    wire_line="#a9b5c4",
    wifi_line="#5fb7e6",
    good="#5bd07f",
    costly="#f0b44c",
    bad="#ff8a80",
    unknown="#a3aebd",
    sign="#12161c",
)

SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","PingFang SC","Microsoft YaHei",sans-serif'
MONO = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'
