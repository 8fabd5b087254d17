"""The two sides of a comparison: each runs in its own interpreter, on a copy of the data that may be written to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path


def run(python: str, program: str, settings: dict) -> dict:
    """Run one side in its own interpreter and return what it prints."""
    words = [python, "-c", program, json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def copied(definition: Path, folder: Path) -> Path:
    """Copy a data set to a folder that may be written to, and return its YAML there."""
    content = yaml.safe_load(definition.read_text())
    shutil.copytree(definition.parent, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    target = folder / definition.name
    target.write_text(yaml.safe_dump({**content, "path": str(folder)}, sort_keys=False))
    return target
