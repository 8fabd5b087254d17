"""A stand-in for Coral's compiler, which is not to be had here: it writes what it reads, as the real one names it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPILER = f"""\
#!{sys.executable}
import pathlib, sys
assert sys.argv[1:3] == ["-s", "-o"], sys.argv
folder, source = map(pathlib.Path, sys.argv[3:5])
content = source.read_bytes()
if b"TFL3" not in content[:8]:
    sys.exit("Invalid model")
print("Number of operations that will run on Edge TPU: all")
(folder / (source.stem + "_edgetpu.tflite")).write_bytes(content)
"""


@pytest.fixture(scope="class")
def with_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the stand-in on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "edgetpu_compiler"
    program.write_text(COMPILER)
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield program
