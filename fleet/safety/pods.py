"""When too few pods of a cluster start, where no policy says otherwise: under so many percent, of at least so many tried within so many seconds."""

from __future__ import annotations

from typing import Final

PERCENT: Final = 80.0
AT_LEAST: Final = 20
WINDOW_SECONDS: Final = 600
