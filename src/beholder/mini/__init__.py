"""The built-in model `beholder-mini`: a small 360VL-architecture checkpoint that ships with the package.

The folder holds the checkpoint in the published layout; `worlds` and its neighbours draw the pictures it
learned from.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "checkpoint"
NAME = "beholder-mini"
