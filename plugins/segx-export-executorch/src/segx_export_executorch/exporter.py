"""Writes ``_executorch_model`` folders: torch.export traces the model, ExecuTorch lowers what it traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import ExportError, reason
from segx.options.verbs import ExportOptions
from segx.plugin.base import FormatExporter
from segx.runtime import child

if TYPE_CHECKING:
    from segx.plugin.jobs import ExportJob, ExportModule

PROGRAM = "model.pte"


class ExecuTorchExporter(FormatExporter[ExportOptions]):
    """Programs of ExecuTorch, for CPUs."""

    title = "ExecuTorch"
    format = "executorch"
    options = ExportOptions
    packages = ("executorch", "torch")

    def _export(self, source: ExportModule, job: ExportJob, options: ExportOptions) -> None:  # noqa: ARG002 - has none
        import torch

        traced = job.scratch / "traced.pt2"
        try:
            program = torch.export.export(source.module, (torch.from_numpy(source.example),))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(f"torch.export cannot make a program of this model ({reason(error)})") from error
        torch.export.save(program, traced)
        job.destination.mkdir()
        arguments = {"source": traced, "destination": job.destination / PROGRAM}
        child.call("segx_export_executorch.convert:convert", arguments, what="ExecuTorch")
