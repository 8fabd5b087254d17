"""Verify: whether two models on disk find the same, on drawn images and on those of a data set."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from segx.artifact import Artifact
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.plugin.specs import Tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segx.flows.parity import Proof
    from segx.options.verbs import VerifyOptions
    from segx.plugin.interfaces import Session
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec, ExporterSpec
    from segx.structures.batch import SourceImage


def verify(
    artifact: Artifact,
    reference: Artifact | Session,
    *,
    images: Sequence[SourceImage] = (),
    tolerance: Tolerance | None = None,
    device: str | None = None,
    backend: str | None = None,
    registry: Registry | None = None,
) -> Proof:
    """Compare a model on disk with the model it was made from.

    Args:
        artifact: The model to prove.
        reference: Its source.
        images: Images to prove it on, besides the drawn ones.
        tolerance: How far they may be apart; default: what the format allows for the file's precision.
        device: Where both run; default: on the CPU where the runtime has one.
        backend: The runtime of the model to prove, by name; default: the best installed for its format.
        registry: Where to look things up; default: the installed plugins.

    Raises:
        MissingPluginError: No backend for one of the formats is installed.
        ModelError: One of them cannot be opened or run.
    """
    from segx.flows.parity import prove

    registry = registry or get_registry()
    with contextlib.ExitStack() as stack:
        source = opened(stack, reference, registry, device) if isinstance(reference, Artifact) else reference
        made = opened(stack, artifact, registry, device, backend=backend)
        allowed = tolerance or tolerance_of(registry.exporters.find(artifact.format), made.info.precision)
        task = registry.tasks.load(source.info.task)
        return prove(source, made, task=task, tolerance=allowed, images=images)


def images_of(options: VerifyOptions, registry: Registry) -> list[SourceImage]:
    """Return images of the data set that the options name, spread evenly over it; none where they name none.

    Raises:
        DataError: The data set is not there, or one of the images cannot be read.
    """
    if not options.data:
        return []
    from segx.flows.calibration import paths_of, spread
    from segx.io.images import read_image
    from segx.structures.batch import SourceImage

    paths = spread(paths_of(options.data, options, registry), options.most)
    return [SourceImage(image=read_image(path), path=str(path)) for path in paths]


def opened(
    stack: contextlib.ExitStack,
    artifact: Artifact,
    registry: Registry,
    device: str | None,
    *,
    backend: str | None = None,
) -> Session:
    """Return a model that is open until the stack is closed: on the CPU, where no device is named and there is one."""
    spec = registry.backend_for(artifact.format, name=backend, device=device)
    session = registry.backends.load(spec).open(artifact, SessionOptions(device=device or _quiet_device(spec)))
    stack.callback(session.close)
    return session


def _quiet_device(spec: BackendSpec) -> str | None:
    """Return the CPU where the runtime has one: figures are the same on every machine then."""
    return "cpu" if "cpu" in spec.devices else None


def tolerance_of(spec: ExporterSpec | None, precision: str) -> Tolerance:
    """Return how far a file of a format and precision may be from its source."""
    return Tolerance() if spec is None else spec.tolerance.get(precision, Tolerance())
