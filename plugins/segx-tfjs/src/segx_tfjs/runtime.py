"""TensorFlow.js on this machine: where it lies, what is missing, and how it gets there.

It comes from npm's registry, which pip knows nothing of. So it is installed by a command that somebody types,
``segx tfjs setup``, into segx's cache folder, and never by the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from segx.errors import SegxError, UsageError
from segx.io.paths import cache_folder

VARIABLE = "SEGX_TFJS"
"""Names a folder with ``node_modules`` in it, of somebody who has TensorFlow.js already."""

PACKAGES = {"@tensorflow/tfjs": "4.22.0", "@tensorflow/tfjs-backend-wasm": "4.22.0"}
"""What is installed: versions that were seen working together."""

LICENCE = Path(__file__).with_name("LICENSE-tfjs")
"""The licence of those packages, which bring no file of it."""

OLDEST_NODE = 18

SETUP = "segx tfjs setup"

_TFJS, _WASM = PACKAGES
_FOR_NODE = (f"{_TFJS}/dist/tf.node.js", f"{_WASM}/dist/tf-backend-wasm.node.js")
FOR_A_PAGE = (
    f"{_TFJS}/dist/tf.min.js",
    f"{_WASM}/dist/tf-backend-wasm.min.js",
    f"{_WASM}/dist/tfjs-backend-wasm.wasm",
    f"{_WASM}/dist/tfjs-backend-wasm-simd.wasm",
    f"{_WASM}/dist/tfjs-backend-wasm-threaded-simd.wasm",
)
"""What a page loads, by its place in ``node_modules``."""
_LAST_LINES = 5


def modules() -> Path:
    """Return the folder of the packages, which may not be there.

    Raises:
        UsageError: This user has no cache folder.
    """
    chosen = os.environ.get(VARIABLE)
    return (Path(chosen).expanduser() if chosen else cache_folder() / "tfjs") / "node_modules"


def problem() -> str:
    """Return why models cannot be run here, or an empty text; looks at files only."""
    if shutil.which("node") is None:
        return f"needs Node.js {OLDEST_NODE} or later, and there is no node in PATH; install it, then: {SETUP}"
    try:
        folder = modules()
    except UsageError as error:
        return f"{error.message}; {error.hint}"
    missing = [name for name in (*_FOR_NODE, *FOR_A_PAGE[2:4]) if not (folder / name).is_file()]
    return f"needs TensorFlow.js: {SETUP}" if missing else ""  # "segx tfjs status" says where it would be


def for_a_page() -> dict[str, Path] | None:
    """Return the files that a page loads, by their names in its folder; None where they are not installed."""
    try:
        folder = modules()
    except UsageError:
        return None
    found = {Path(name).name: folder / name for name in FOR_A_PAGE}
    return found if all(path.is_file() for path in found.values()) else None


def setup() -> Path:
    """Install TensorFlow.js with npm, and return the folder; what was there is replaced once the new one is whole.

    No script of a package is run, and npm keeps nothing outside the folder.

    Raises:
        SegxError: There is no npm, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SegxError("there is no npm in PATH", hint=f"install Node.js {OLDEST_NODE} or later, then: {SETUP}")
    target = modules().parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tfjs-", dir=target.parent) as work:
        place = Path(work) / "tfjs"
        place.mkdir()
        # npm goes up to the nearest package.json; without one here it would install into somebody's project
        (place / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        words = [
            *(npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"),
            *("--no-update-notifier", "--loglevel=error", f"--cache={Path(work) / 'cache'}"),
            *(f"{name}@{version}" for name, version in PACKAGES.items()),
        ]
        done = subprocess.run(  # noqa: S603 - npm, with words of ours
            words, cwd=place, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
            raise SegxError(f"npm could not install TensorFlow.js (exit code {done.returncode})", hint=said)
        if target.exists():
            target.rename(Path(work) / "before")
        place.rename(target)
    return target
