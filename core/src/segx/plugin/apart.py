"""Backends whose runtime does not share a process with others: each open model is in a process of its own.

Images and outputs lie in memory that both processes see, so that what a run costs more is copying the images there
once and the outputs once. The runtime may print, start what it likes and crash.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ModelError, PluginError, SegxError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin.specs import lazy, nothing
from segx.runtime import child, device_kind
from segx.runtime.memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.plugin.interfaces import Backend, Session
    from segx.plugin.specs import BackendSpec
    from segx.structures.types import Array, Images

_LENT = 4
"""Outputs of so many runs may be in the caller's hands without having been copied."""
_ALIGNED = 64
"""Outputs begin at multiples of so many bytes."""
_LOOK = 1.0
"""Seconds after which a process that does not answer is looked at."""


class ApartBackend:
    """Stands for a backend of which ``BackendSpec.apart`` holds.

    Args:
        spec: What is declared.
        backend: What it loads; it reads what files are, and opens none in this process.
        target: ``"package.module:Class"`` of the same, for the other process.
    """

    def __init__(self, spec: BackendSpec, backend: Backend, target: str) -> None:
        self._spec = spec
        self._backend = backend
        self._target = target
        self._runtime = str(getattr(backend, "runtime", spec.name))
        if callable(getattr(backend, "devices", None)):
            self.devices = self._devices

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what is known of a model: :meth:`segx.plugin.interfaces.Backend.read_info`; done in this process."""
        return self._backend.read_info(artifact)

    def open(self, artifact: Artifact, options: SessionOptions) -> Session:
        """Return a session that runs the model: :meth:`segx.plugin.interfaces.Backend.open`."""
        info = self.read_info(artifact)  # what is damaged is refused before anything is started
        if options.device is not None and device_kind(options.device) not in self._spec.devices:
            msg = f"{self._runtime} does not run on device {options.device!r}"
            raise UsageError(msg, hint=f"it runs on {', '.join(self._spec.devices)}")
        return ApartSession(artifact, info, options, spec=self._spec, target=self._target, runtime=self._runtime)

    def _devices(self) -> list[str]:
        found = child.call(
            f"{__name__}:list_devices",
            {"target": self._target},
            what=self._runtime,
            prepare=_prepared(self._spec),
            error=PluginError,
        )
        return list(found)


def stand_in(spec: BackendSpec, backend: Backend) -> ApartBackend:
    """Return what stands for a backend that works apart.

    Raises:
        PluginError: The declaration says how to load it in a way that no other process can follow.
    """
    if not isinstance(spec.load, lazy):
        raise PluginError(f"backend {spec.name!r} works apart, so its load has to be lazy(...)")
    return ApartBackend(spec, backend, spec.load.target)


class ApartSession:
    """A model that is open in a process of its own.

    Attributes:
        info: What is known of the model.
        device: Where it runs.
    """

    def __init__(
        self,
        artifact: Artifact,
        info: ArtifactInfo,
        options: SessionOptions,
        *,
        spec: BackendSpec,
        target: str,
        runtime: str,
    ) -> None:
        workers = options.streams if spec.concurrent else 1
        self._line = _Line(artifact.path, runtime, workers)
        self._finalize = weakref.finalize(self, self._line.close)
        arguments = {
            "target": target,
            "path": os.fspath(artifact.path.absolute()),
            "kind": artifact.format,
            "options": options.as_dict(),
            "workers": workers,
        }
        try:
            ready = self._line.start(arguments, prepare=_prepared(spec))
        except BaseException:
            self._finalize()
            raise
        self.info = info if ready["info"] is None else ArtifactInfo.from_metadata(ready["info"])
        self.device: str = ready["device"]

    def run(self, images: Images) -> tuple[Array, ...]:
        """Return the raw outputs: :meth:`segx.plugin.interfaces.Session.run`; several threads may call it.

        Raises:
            ModelError: As there; or the process has ended.
        """
        return self._line.run(images)

    def close(self) -> None:
        """End the process."""
        self._finalize()


class _Line:
    """What is between this process and the one that runs a model; it does not know the session, which may go first."""

    def __init__(self, path: Path, runtime: str, workers: int) -> None:
        self._path = path
        self._runtime = runtime
        self._free = deque(_Slot(index, SharedMemory.new(), SharedMemory.new()) for index in range(workers + _LENT))
        self._places = [[slot.images.place, slot.outputs.place] for slot in self._free]
        self._tokens: SimpleQueue[None] = SimpleQueue()
        for _ in self._free:
            self._tokens.put(None)
        self._lent = 0
        self._numbers = itertools.count()
        self._pending: dict[int, _Request] = {}
        self._lock = threading.RLock()  # what is lent may come back at any time, in the midst of anything
        self._child: child.Child | None = None
        self._started = threading.Event()
        self._failure: SegxError | None = None
        self._closed = False

    def start(self, arguments: Mapping[str, Any], *, prepare: str) -> Mapping[str, Any]:
        """Start the process, and return what it says of itself once the model is open.

        Raises:
            SegxError: It cannot be opened there.
        """
        opening = _Request(next(self._numbers))
        self._pending[opening.number] = opening
        try:
            self._child = child.Child(
                f"{__name__}:serve",
                {**arguments, "slots": self._places},
                what=self._runtime,
                hear=self._hear,
                prepare=prepare,
                files=[place for pair in self._places for place in pair if isinstance(place, int)],
            )
        except OSError as error:
            msg = f"{self._path}: {self._runtime} cannot be started in a process of its own"
            raise ModelError(f"{msg} ({error.strerror or error})") from error
        self._started.set()
        return self._wait(opening)

    def run(self, images: Images) -> tuple[Array, ...]:
        """Have images run, and wait for the outputs."""
        import numpy as np

        images = np.asarray(images)
        request = self._take()
        slot = request.slot
        try:
            np.copyto(slot.images.array(images.shape), images, casting="unsafe")
            with self._lock:
                self._check_open()
                self._pending[request.number] = request
            with contextlib.suppress(OSError):  # it has ended, which is reported while waiting for its answer
                self._process.send({"number": request.number, "slot": slot.index, "shape": list(images.shape)})
            answer = self._wait(request)
        except BaseException:
            with self._lock:
                request.abandoned = request.number in self._pending
            if not request.abandoned:
                self._give_back(slot)
            raise
        return self._outputs(slot, answer)

    def close(self) -> None:
        """End the process; the outputs of earlier runs stay."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._free.clear()
        if self._child is not None:
            self._child.finish()
            self._child.end()

    @property
    def _process(self) -> child.Child:
        self._started.wait()
        if self._child is None:
            raise RuntimeError("the process has not been started")
        return self._child

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError(f"{self._path}: the session is closed", hint="open the model again")
        if self._failure is not None:
            raise _again(self._failure)

    def _take(self) -> _Request:
        """Return a request with memory of its own; waits until there is some."""
        self._tokens.get()
        try:
            with self._lock:
                self._check_open()
                return _Request(next(self._numbers), self._free.pop())
        except BaseException:
            self._tokens.put(None)
            raise

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            if not self._closed:
                self._free.append(slot)
        self._tokens.put(None)

    def _outputs(self, slot: _Slot, answer: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
        """Return the outputs where they lie; copied where the caller has many that lie there already."""
        whole = slot.outputs.bytes(answer["size"])
        outputs = tuple(
            whole[begin : begin + size].view(kind).reshape(shape).transpose(axes)
            for kind, shape, axes, begin, size in answer["outputs"]
        )
        with self._lock:
            lend = self._lent < _LENT
            self._lent += lend
        if lend:  # each output is a view of the whole, which goes when the last of them does
            weakref.finalize(whole, self._returned, slot).atexit = False
            return outputs
        copies = tuple(output.copy() for output in outputs)
        self._give_back(slot)
        return copies

    def _returned(self, slot: _Slot) -> None:
        with self._lock:
            self._lent -= 1
        self._give_back(slot)

    def _wait(self, request: _Request) -> Mapping[str, Any]:
        gone = False
        while True:
            try:
                return request.answer.result(_LOOK)
            except TimeoutError:
                if gone:  # what it has started holds the pipe open, so that its end is not heard
                    self._fail({})
                gone = self._process.ended

    def _hear(self, message: Mapping[str, Any] | None) -> None:
        """Take a message; called by the thread that listens."""
        if message is None or "error" in message:
            self._fail(message or {})
        elif "number" in message:
            with self._lock:
                request = self._pending.pop(message["number"], None)
            if request is None:
                return
            if request.abandoned:
                self._give_back(request.slot)
            elif "failed" in message:
                error = self._process.failure({"error": message["failed"]}, ModelError, of=str(self._path))
                request.answer.set_exception(error)
            else:
                request.answer.set_result(message)

    def _fail(self, last: Mapping[str, Any]) -> None:
        """Fail what is under way: there will be no more answers."""
        if self._failure is None:
            self._failure = self._process.failure(last, ModelError, of=str(self._path))
        with self._lock:
            waiting = list(self._pending.values())
            self._pending.clear()
        for request in waiting:
            if request.abandoned:
                self._give_back(request.slot)
                continue
            try:
                self._check_open()
            except SegxError as error:
                request.answer.set_exception(error)


class _Request:
    """One run that is under way; abandoned: nobody waits for it any more."""

    def __init__(self, number: int, slot: _Slot | None = None) -> None:
        self.number = number
        self.answer: Future[Mapping[str, Any]] = Future()
        self.abandoned = False
        self._slot = slot

    @property
    def slot(self) -> _Slot:
        if self._slot is None:
            raise RuntimeError("opening takes no memory")
        return self._slot


@dataclass(frozen=True)
class _Slot:
    """Memory for one run."""

    index: int
    images: SharedMemory
    outputs: SharedMemory


def _again(error: SegxError) -> SegxError:
    return type(error)(error.message, hint=error.hint)


def _prepared(spec: BackendSpec) -> str:
    """Return what a declaration prepares by name; what has none is prepared there with all that is installed."""
    name = "" if spec.prepare is nothing else str(getattr(spec.prepare, "__qualname__", "<"))
    return f"{spec.prepare.__module__}:{name}" if name and "<" not in name else ""


# In the other process


def list_devices(target: str) -> list[str]:
    """Return the devices that a backend lists."""
    backend: Any = lazy(target)()
    return list(map(str, backend.devices()))


def serve(
    *,
    target: str,
    path: str,
    kind: str,
    options: Mapping[str, Any],
    workers: int,
    slots: Sequence[tuple[int | str, int | str]],
) -> None:
    """Open a model and run what comes until nobody wants more.

    Args:
        target: The backend.
        path: The model.
        kind: Its format.
        options: How it is opened.
        workers: How many runs may be under way at once.
        slots: Memory for images and outputs of each of them.
    """
    memory = [_Slot(index, *map(SharedMemory.inherited, pair)) for index, pair in enumerate(slots)]
    backend: Backend = lazy(target)()
    artifact = Artifact(path=Path(path), format=kind)
    session = backend.open(artifact, SessionOptions(**options))
    info = None if session.info == backend.read_info(artifact) else session.info.to_metadata()
    parent = child.parent()
    parent.send({"number": 0, "device": session.device, "info": info})

    def work() -> None:
        for request in parent.messages():
            parent.send({"number": request["number"], **_answer(session, memory[request["slot"]], request["shape"])})

    others = [threading.Thread(target=work, name=f"segx-run-{index}", daemon=True) for index in range(1, workers)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join(_LOOK)
    session.close()


def _answer(session: Session, slot: _Slot, shape: Sequence[int]) -> dict[str, Any]:
    """Run one batch and lay the outputs down."""
    from segx.ops.arrays import to_numpy

    try:
        outputs = [to_numpy(output) for output in session.run(slot.images.array(shape))]
        return _laid_down(outputs, slot.outputs)
    except Exception as error:  # noqa: BLE001 - reported where the run was asked for
        return {"failed": child.described(error)}


def _laid_down(outputs: Sequence[NDArray[Any]], memory: SharedMemory) -> dict[str, Any]:
    """Copy outputs into memory as they lie, in whichever order of their axes, and return where each of them is."""
    table, end = [], 0
    for output in outputs:
        if output.dtype.hasobject:
            raise ModelError(f"the model gives an output of {output.dtype}, which holds no numbers")
        begin = -(-end // _ALIGNED) * _ALIGNED
        end = begin + output.nbytes
        order = sorted(range(output.ndim), key=lambda axis: -output.strides[axis])
        axes = sorted(range(output.ndim), key=order.__getitem__)
        table.append((output.dtype.str, [output.shape[axis] for axis in order], axes, begin, output.nbytes))
    whole = memory.bytes(end)
    for output, (kind, shape, axes, begin, size) in zip(outputs, table, strict=True):
        whole[begin : begin + size].view(kind).reshape(shape).transpose(axes)[...] = output
    return {"outputs": table, "size": end}
