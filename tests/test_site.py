"""The documentation builds as a site, without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_the_site_builds_strictly(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    python = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    assert all(name in python for name in ("YOLO", "Results", "Masks", "PredictOptions", "SegxError"))
    assert "fonts.googleapis" not in python, "the site tells nobody who reads it"


SHOWN = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ".github/ISSUE_TEMPLATE",
    ".github/PULL_REQUEST_TEMPLATE.md",
    ".github/workflows/ci.yml",
    *(f"docs/how-to/write-a-{what}.md" for what in ("backend", "data-format", "logger", "model", "task")),
    "docs/how-to/write-an-exporter.md",
    "docs/explanation/architecture.md",
)
"""What somebody who carries on looks for first."""


def test_what_is_looked_for_first_is_there(repository: Path) -> None:
    assert [name for name in SHOWN if not (repository / name).exists()] == []
