"""Builds every distribution and proves that the wheels alone do the main job: ``.venv/bin/python scripts/release.py``.

Wheels and source archives go to ``dist/`` (or the folder given), are checked with twine, then read: licence, type
marker, description and entry point have to be in each. ``--install`` makes a fresh environment of nothing but the
wheels and what they ask for, and predicts, exports and predicts again in it. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import email
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".uv" / "bin" / "uv"

SMOKE = """
import tempfile
from pathlib import Path
import numpy as np
from segx import YOLO
image = np.full((96, 96, 3), 200, np.uint8)
image[30:70, 20:60] = (30, 60, 220)
file = YOLO("shapes-seg.pt").export(format="onnx", output=Path(tempfile.mkdtemp()) / "shapes.onnx")
for model in ("shapes-seg.pt", file):
    (result,) = YOLO(model)(image, save=False)
    print(model, len(result.boxes))
"""


def build(folder: Path, *, sdist: bool = True) -> list[Path]:
    """Write the distributions of the workspace into a folder and return their wheels."""
    kinds = [] if sdist else ["--wheel"]
    _call(str(UV), "build", "--quiet", "--all-packages", *kinds, "--out-dir", str(folder), cwd=ROOT)
    return sorted(folder.glob("*.whl"))


def check(folder: Path) -> None:
    """Have twine read what was built, as an index would."""
    files = [str(path) for pattern in ("*.whl", "*.tar.gz") for path in sorted(folder.glob(pattern))]
    _call(sys.executable, "-m", "twine", "check", "--strict", *files)


def lacks(wheel: Path) -> list[str]:
    """Return what a wheel should have and has not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))))
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    wanted = {f"{package}/py.typed" for package in packages}
    missing = sorted(wanted - set(names))
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        missing.append("LICENSE")
    fields = ("Author", "Classifier", "Keywords", "License-Expression", "Requires-Python", "Summary")
    missing += [field for field in fields if not metadata.get(field)]
    if len((metadata.get_payload() or "").split()) < 20:  # type: ignore[union-attr] - a message of one part
        missing.append("a description: its README says nothing")
    return missing


def install(wheels: list[Path], *, python: str) -> None:
    """Predict, export and predict again in a fresh environment of the wheels and what they ask for."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _call(str(UV), "venv", "--quiet", "--python", python, str(place / "venv"))
        inside = str(place / "venv" / "bin" / "python")
        _call(str(UV), "pip", "install", "--quiet", "--python", inside, *map(str, wheels))
        _call(inside, "-c", SMOKE, cwd=place, home=place)
        _call(str(place / "venv" / "bin" / "segx"), "formats", cwd=place, home=place)


def _call(*command: str, cwd: Path | None = None, home: Path | None = None) -> None:
    environment = dict(os.environ) if home is None else {**os.environ, "HOME": str(home), "SEGX_CACHE": str(home / "c")}
    environment.pop("PYTHONPATH", None)
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def main() -> int:
    """Build, check, read and, where asked, install; say what a wheel lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where they go")
    parser.add_argument("--install", action="append", default=[], metavar="PYTHON", help="a version, 3.12, or a path")
    chosen = parser.parse_args()
    wheels = build(chosen.folder)
    check(chosen.folder)
    poor = {wheel.name: missing for wheel in wheels if (missing := lacks(wheel))}
    for name, missing in poor.items():
        print(f"{name} lacks: {', '.join(missing)}", file=sys.stderr)
    for python in chosen.install:
        install(wheels, python=python)
        print(f"Python {python}: the wheels alone predict and export")
    print(f"{len(wheels)} wheels in {chosen.folder}")
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
