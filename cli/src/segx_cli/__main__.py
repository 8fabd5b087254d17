"""``python -m segx_cli`` is ``segx``."""

from __future__ import annotations

from segx_cli.main import program

if __name__ == "__main__":  # spawned workers import it under another name
    program()
