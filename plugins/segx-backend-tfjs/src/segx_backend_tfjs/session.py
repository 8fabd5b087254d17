"""A model that Node.js runs: one process for each stream, fed through pipes."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import struct
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from segx.errors import ModelError
from segx.ops.images import channels_last
from segx.plugin.base import FormatSession
from segx_tfjs.runtime import modules, problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.structures.types import Array, Images

_SCRIPT = Path(__file__).with_name("run.cjs")
_PATIENCE = 5.0
"""Seconds that a process has to end by itself."""
_AT_ONCE = 1 << 20
"""Bytes in a pipe, where the system lets one ask: a run's images and outputs are 12 MB, and each filling a switch."""
_MAX_SAID = 4096
_MAX_HEADER = 1 << 20


class Runner:
    """A process of Node.js with a model loaded.

    TensorFlow.js computes on one thread in Node.js: its WebAssembly of several threads is for browsers.
    """

    def __init__(self, folder: Path) -> None:
        node = shutil.which("node")
        if node is None or problem():
            raise ModelError(f"{folder}: TensorFlow.js {problem()}")
        self._path = folder
        self._said: IO[bytes] = tempfile.TemporaryFile(prefix="segx-tfjs-")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - node, with a script of ours
            [node, str(_SCRIPT), str(modules().resolve()), str(folder.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            pipesize=_AT_ONCE,
            start_new_session=True,  # Ctrl-C is this process's; the other one ends with its input
        )
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self.stop = weakref.finalize(self, _end, self._process, self._said)

    def wait(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ModelError: It cannot be.
        """
        self._hear()

    def run(self, images: Images) -> dict[str, Array]:
        """Return the outputs by their names, as the model lays them out, for images (N, H, W, 3).

        Raises:
            ModelError: The model fails, or the process has ended.
        """
        header = json.dumps({"shape": images.shape}).encode()
        if self._stdin.closed:
            raise ModelError(f"{self._path}: the run before was cut short", hint="open the model again")
        try:
            self._stdin.write(struct.pack("<I", len(header)) + header)
            self._stdin.write(images.data.cast("B"))
            self._stdin.flush()
        except OSError:
            raise self._ended() from None
        outputs = self._hear()["outputs"]
        return {output["name"]: self._take(tuple(output["shape"])) for output in outputs}

    def _hear(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._read(4))
        if length > _MAX_HEADER:
            raise ModelError(f"{self._path}: Node.js answers with something else than was agreed on")
        header: dict[str, Any] = json.loads(self._read(length))
        if "error" in header:
            raise ModelError(f"{self._path}: TensorFlow.js: {header['error'].strip().splitlines()[0]}")
        return header

    def _read(self, count: int) -> bytes:
        data = self._stdout.read(count)
        if len(data) < count:
            raise self._ended()
        return data

    def _take(self, shape: tuple[int, ...]) -> Array:
        array = np.empty(shape, np.float32)
        view = array.data.cast("B")
        done = 0
        while done < len(view):
            got = self._stdout.readinto(view[done:])  # type: ignore[attr-defined]  # a buffered reader has it
            if not got:
                raise self._ended()
            done += got
        return array

    def _ended(self) -> ModelError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        size = self._said.seek(0, 2)
        self._said.seek(max(size - _MAX_SAID, 0))
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        code = self._process.poll()
        msg = f"{self._path}: Node.js has ended" + ("" if code is None else f" (exit code {code})")
        return ModelError(msg, hint=lines[-1].strip() if lines else "open the model again")


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not written goes nowhere
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    said.close()


class Runners:
    """As many processes as threads call; whoever comes takes one that is free, or waits for it."""

    def __init__(self, folder: Path, count: int) -> None:
        self._all: list[Runner] = []
        self._free: queue.SimpleQueue[Runner] = queue.SimpleQueue()
        try:
            self._all += [Runner(folder) for _ in range(count)]  # they load side by side
            for runner in self._all:
                runner.wait()
                self._free.put(runner)
        except BaseException:
            self.stop()
            raise

    def run(self, images: Images) -> dict[str, Array]:
        """Return the outputs by name for images (N, H, W, 3)."""
        runner = self._free.get()
        try:
            return runner.run(images)
        except ModelError:
            raise
        except BaseException:  # such as Ctrl-C: the next caller would take what is left of the answer for its own
            runner.stop()
            raise
        finally:
            self._free.put(runner)

    def stop(self) -> None:
        """End the processes."""
        for runner in self._all:
            runner.stop()


def start(folder: Path, *, streams: int) -> Runners:
    """Return processes that have loaded the model.

    Raises:
        ModelError: It cannot be loaded.
    """
    return Runners(folder, max(streams, 1))


class TfjsSession(FormatSession[Runners]):
    """A model that is ready to run."""

    runtime: ClassVar[str] = "TensorFlow.js"

    def _run(self, model: Runners, images: Images) -> Mapping[str, Array]:
        outputs = model.run(channels_last(images))
        names = self.info.outputs
        if set(outputs) != set(names) and len(outputs) == len(names) == 2:
            # files of other tools call them otherwise: the flat one comes first and the maps second, as everywhere
            outputs = dict(zip(names, sorted(outputs.values(), key=lambda output: output.ndim), strict=True))
        return {name: np.moveaxis(output, -1, 1) if output.ndim == 4 else output for name, output in outputs.items()}

    def close(self) -> None:
        """End the processes."""
        if self._model is not None:
            self._model.stop()
        super().close()
