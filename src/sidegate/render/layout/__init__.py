"""Where everything of a home stands in its picture. Pure; nothing is drawn here."""

from sidegate.render.layout.parts import Marks as Marks
from sidegate.render.layout.whole import COMFORTABLE_PX as COMFORTABLE_PX
from sidegate.render.layout.whole import layout as layout
