"""Has a conversion done in a process of its own, for the exporters of TensorFlow's formats; TensorFlow stays there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.plugin.base import open_shape
from segx.runtime import child

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


def convert(
    function: str, source: Artifact, job: ExportJob, *, what: str = "TensorFlow", **arguments: Any
) -> ArtifactInfo:
    """Write ``job.destination`` and return the info that describes it.

    Args:
        function: ``"module:function"`` of this package; it returns versions, outputs and, where it made a raw head,
            what decoding that needs.
        source: The ONNX file.
        job: What is asked for.
        what: What people call what does it.
        arguments: What the function takes besides source, shape and destination.

    Raises:
        ExportError: It fails.
    """
    made: dict[str, Any] = child.call(
        f"segx_tensorflow.{function}",
        {"source": source.path, "shape": open_shape(job.info), "destination": job.destination, **arguments},
        what=what,
        prepare="segx_tensorflow.quiet:prepare",
        notify=job.notify,
    )
    return job.info.replace(
        versions={**job.info.versions, **made["versions"]},
        outputs=tuple(made["outputs"]),
        decoding=made.get("decoding", job.info.decoding),
    )
