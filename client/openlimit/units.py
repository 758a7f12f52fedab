"""Every rule about units: their names, their bounds, and that tokens are input and output."""

import re

UNIT = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a unit may be called."""
