"""Writes files for the Edge TPU: looks whether it takes the graph, and has Coral's compiler map it."""

from __future__ import annotations

import logging
import shutil
import subprocess
from typing import TYPE_CHECKING

from segx.errors import ExportError, UsageError, reason
from segx.plugin.base import FormatExporter
from segx.plugin.registry import get_registry
from segx_export_edgetpu.options import COMPILER, EdgeTpuOptions, compiler_is_missing

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob
    from segx_export_edgetpu.operators import Report

logger = logging.getLogger(__name__)

_LINES = 20


class EdgeTpuExporter(FormatExporter[EdgeTpuOptions]):
    """TensorFlow Lite files that an Edge TPU runs."""

    title = "Edge TPU"
    format = "edgetpu"
    options = EdgeTpuOptions
    source = "tflite"

    def _check(self, info: ArtifactInfo, options: EdgeTpuOptions) -> None:  # noqa: ARG002 - any model
        if options.compile and compiler_is_missing():
            msg = f"compile=True: {COMPILER} is not on PATH; Coral has it for Linux on x86-64 (coral.ai)"
            hint = f"compile=False writes the file that it takes, to be compiled elsewhere: {COMPILER} -s FILE"
            raise UsageError(msg, hint=hint)

    def _export(self, source: Artifact, job: ExportJob, options: EdgeTpuOptions) -> ArtifactInfo:
        report = _looked_at(source.path)
        if options.compile:
            _compile(source.path, job)
        else:
            shutil.copyfile(source.path, job.destination)
            logger.info("to be compiled where Coral's compiler is: %s -s %s", COMPILER, job.destination.name)
        noted = {
            "operators": {f"{name} {version}": count for (name, version), count in report.operators.items()},
            "on_host": list(report.on_host),
            "compiled": options.compile,
        }
        return job.info.replace(settings={**job.info.settings, "edgetpu": noted})

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the info as the format that it is made from does."""
        registry = get_registry()
        registry.exporters.load(registry.exporters.get("tflite")).write_info(path, info)


def _looked_at(path: Path) -> Report:
    """Return what the accelerator takes of a file.

    Raises:
        ExportError: It takes nothing of it.
    """
    from segx_export_edgetpu.operators import look

    try:
        report = look(path)
    except Exception as error:  # readers answer to damage with errors of every class
        raise ExportError(f"{path}: is damaged or no TFLite model ({reason(error)})", hint="export it again") from error
    again = "segx export model=yolov8n-seg.pt format=edgetpu data=..."
    if set(report.inputs) - {"UINT8", "INT8"}:
        msg = f"{path}: takes {', '.join(report.inputs)}; an Edge TPU is fed 8-bit numbers"
        raise ExportError(msg, hint=f"{again}, or format=tflite int8=True values=uint8")
    if report.open_sizes:
        raise ExportError(f"{path}: has tensors of open sizes ({report.open_sizes[0]})", hint=again)
    if report.too_new:
        msg = f"{path}: Coral's compiler does not take these operators with their versions: {', '.join(report.too_new)}"
        raise ExportError(msg, hint="an older TensorFlow writes older versions")
    count = sum(report.operators.values())
    if report.on_host:
        logger.warning(
            "of %d operators the Edge TPU has not: %s; they and what follows run on the host",
            count,
            ", ".join(report.on_host),
        )
    else:
        logger.info("the Edge TPU has all %d operators", count)
    return report


def _compile(source: Path, job: ExportJob) -> None:
    """Have Coral's compiler write the destination.

    Raises:
        ExportError: It fails, with the last lines that it wrote.
    """
    plain = job.scratch / "model.tflite"
    shutil.copyfile(source, plain)
    job.notify("compiling", 0, None)
    command = [COMPILER, "-s", "-o", str(job.scratch), str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - on PATH
    said = [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    for line in said:
        logger.debug("%s: %s", COMPILER, line)
    made = job.scratch / "model_edgetpu.tflite"
    if done.returncode or not made.is_file():
        raise ExportError(f"{COMPILER} failed (exit code {done.returncode})", hint="\n  ".join(said[-_LINES:]))
    for line in said:
        if "operations will run on" in line or "cached on" in line or "off-chip" in line.lower():
            logger.info("%s: %s", COMPILER, line.strip())
    shutil.copyfile(made, job.destination)
