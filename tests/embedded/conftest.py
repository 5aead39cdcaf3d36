"""The embedded tests' app is a module of its own, as a user's is: child processes import it by its name."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)
