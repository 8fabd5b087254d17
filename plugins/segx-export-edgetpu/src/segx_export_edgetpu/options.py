"""The options Edge TPU export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import CalibrationOptions

COMPILER = "edgetpu_compiler"


class EdgeTpuOptions(CalibrationOptions):
    """Options of ``format=edgetpu``."""

    int8: bool = option(True, "8-bit weights and arithmetic: the accelerator has nothing else")
    compile: bool = option(
        True, "have edgetpu_compiler map it onto the accelerator; False: write what that takes, which runs on a CPU"
    )


def compiler_is_missing() -> bool:
    """Say whether Coral's compiler is not on PATH."""
    import shutil  # noqa: PLC0415 - not at each start

    return shutil.which(COMPILER) is None
