"""Opens Core ML packages: with Core ML on a Mac, in NumPy anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io import sidecar
from segx.plugin.base import FormatBackend, Graph
from segx_backend_coreml.package import Feature, Package, read_package

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.plugin.interfaces import Session

_OF_THE_CONVERTER = "com.github.apple."
"""How keys begin under which coremltools notes itself."""
_ARRAYS = frozenset({"fp32", "fp16", "RGB", "BGR"})


class _PackageBackend(FormatBackend):
    """What both have in common: what a package says of itself is read without any runtime."""

    title = "Core ML"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph]:
        package = read_package(path)
        taken = images_of(package, path)
        # What lies in the package tells what was proven too; what is embedded is there for whoever loses that.
        beside = sidecar.folder_sidecar_path(path).exists()
        embedded = {key: text for key, text in package.metadata.items() if not key.startswith(_OF_THE_CONVERTER)}
        graph = Graph(input=taken.shape, outputs=[feature.name for feature in package.outputs])
        return None if beside else embedded, graph


class CoreMLBackend(_PackageBackend):
    """Core ML itself."""

    runtime = "Core ML"

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> Session:
        from segx_backend_coreml import native

        taken = images_of(read_package(artifact.path), artifact.path)
        return native.open_session(artifact.path, info, taken, options)


class ReferenceBackend(_PackageBackend):
    """The program of a package, operation by operation."""

    runtime = "NumPy"

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> Session:
        from segx_backend_coreml import session

        package = read_package(artifact.path)
        return session.open_session(artifact.path, info, package, options)


def images_of(package: Package, path: Path) -> Feature:
    """Return the input that takes the images.

    Raises:
        ModelError: There are several inputs, none of them fits, or several sizes are taken.
    """
    if len(package.inputs) != 1:
        names = ", ".join(feature.name for feature in package.inputs)
        raise ModelError(f"{path}: takes {names}; a model that takes images alone is run here")
    taken = package.inputs[0]
    if taken.kind not in _ARRAYS or len(taken.shape) != 4:
        raise ModelError(f"{path}: its input {taken.name} is no colour image and no array of four axes of floats")
    if not taken.fixed:
        msg = f"{path}: takes images of several sizes; Core ML models of one size are run here"
        raise ModelError(msg, hint="export it again with one imgsz")
    return taken
