"""An open Core ML model that Core ML runs; on a Mac only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.plugin.base import FormatSession
from segx.runtime import choose_device
from segx_backend_coreml.session import as_taken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Images
    from segx_backend_coreml.package import Feature

_UNITS: Mapping[str, str] = {"npu": "CPU_AND_NE", "gpu": "CPU_AND_GPU", "mps": "CPU_AND_GPU", "cpu": "CPU_ONLY"}
"""Device to what Core ML calls it; the Neural Engine is the NPU. Where none is named, Core ML chooses among all."""


class CoreMLSession(FormatSession[Any]):
    """A Core ML model, ready to run."""

    runtime = "Core ML"

    def __init__(self, model: Any, *, path: Path, info: ArtifactInfo, device: str, taken: Feature) -> None:
        super().__init__(model, path=path, info=info, device=device)
        self._taken = taken

    def _run(self, model: Any, images: Images) -> Mapping[str, NDArray[Any]]:
        given = as_taken(images, self._taken)
        found: Mapping[str, NDArray[Any]] = model.predict({self._taken.name: self._image(given)})
        return {name: np.asarray(found[name]) for name in self.info.outputs if name in found}

    def _image(self, given: Images) -> Any:
        """Return an array as it is, or as the image that an input of images takes."""
        if not self._taken.is_image:
            return given
        from PIL import Image

        colours = given[0] if self._taken.kind == "RGB" else given[0, ::-1]  # Core ML reorders what it is given in RGB
        return Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0)).astype(np.uint8))


def open_session(path: Path, info: ArtifactInfo, taken: Feature, options: SessionOptions) -> CoreMLSession:
    """Return a session of a package.

    Raises:
        UsageError: The device is none of Core ML's.
    """
    device = "auto" if options.device is None else choose_device(options.device, tuple(_UNITS))
    tools = _coremltools()
    units = getattr(tools.ComputeUnit, _UNITS.get(device, "ALL"))
    model = tools.models.MLModel(str(path), compute_units=units)
    return CoreMLSession(model, path=path, info=info, device=device, taken=taken)


def _coremltools() -> Any:
    """Import coremltools without the TensorFlow that it looks for: the two do not get on in one process."""
    blocked = "tensorflow" not in sys.modules
    if blocked:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # how an import is blocked
    try:
        import coremltools  # noqa: PLC0415 - within the block
    finally:
        if blocked:
            del sys.modules["tensorflow"]
    return coremltools
