"""An open Core ML model that NumPy runs."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from segx.plugin.base import FormatSession
from segx.runtime import choose_device
from segx_backend_coreml.executor import Executor
from segx_backend_coreml.program import read_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Images
    from segx_backend_coreml.package import Feature, Package

_WHITE = 255.0


class ReferenceSession(FormatSession[Executor]):
    """A Core ML model, ready to run in NumPy."""

    runtime = "NumPy"

    def __init__(
        self, model: Executor, *, path: Path, info: ArtifactInfo, device: str, taken: Feature, threads: int | None
    ) -> None:
        super().__init__(model, path=path, info=info, device=device)
        self._taken = taken
        self._threads = threads

    def _run(self, model: Executor, images: Images) -> Mapping[str, NDArray[Any]]:
        with _threads.at_most(self._threads):
            return model(as_taken(images, self._taken))


def open_session(path: Path, info: ArtifactInfo, package: Package, options: SessionOptions) -> ReferenceSession:
    """Return a session of a package.

    Raises:
        UsageError: The device is another than the CPU.
        ValueError: The program cannot be run here.
    """
    device = choose_device(options.device, ("cpu",))
    executor = Executor(read_program(package))
    return ReferenceSession(
        executor, path=path, info=info, device=device, taken=package.inputs[0], threads=options.threads
    )


def as_taken(images: Images, taken: Feature) -> Images:
    """Return float32 images in 0..1, RGB, as an input takes them: images of bytes have 0..255."""
    if not taken.is_image:
        return images
    coloured = np.rint(images * np.float32(_WHITE))
    return np.ascontiguousarray(coloured[:, ::-1]) if taken.kind == "BGR" else coloured


class _Threads:
    """Holds NumPy to a number of threads while models run; its setting is the process's, so it is put back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._limit = contextlib.ExitStack()
        self._pools: ThreadpoolController | None = None

    @contextlib.contextmanager
    def at_most(self, count: int | None) -> Iterator[None]:
        """Run with so many threads; of models that run at the same time, the first one's number holds."""
        if count is None:
            yield
            return
        with self._lock:
            if not self._running:
                self._pools = self._pools or ThreadpoolController()  # looks through all libraries once
                self._limit.enter_context(self._pools.limit(limits=count, user_api="blas"))
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._limit.close()


_threads = _Threads()
