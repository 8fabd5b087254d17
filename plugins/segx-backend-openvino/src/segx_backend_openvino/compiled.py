"""What OpenVINO has compiled: channels where a CPU has them, and a model of its own for a shape that keeps coming."""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from segx.errors import reason
from segx.ops.arrays import has_channels_last
from segx.ops.images import channels_last
from segx.runtime import available

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segx.structures.types import Array, Images

    Shape = tuple[int, ...]

logger = logging.getLogger(__name__)

_CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData"})
_ONE_BY_ONE = frozenset({"Result", "Add", "Multiply", "Sigmoid", "Swish", "Relu", "Clamp", "FakeQuantize", "Convert"})
"""Operations that leave each number where it is."""
_GAIN = 0.1
"""What is surely saved of a run by a model that is compiled for its shape: 0.10 to 0.13 in 32 bits, 0.19 in 8."""
_IDLE = 8
"""Requests that are kept for runs to come; each has memory for its input and outputs."""
_MAX = 3
"""Shapes that have a model of their own at once; each has its own copy of the weights."""
_ROOM = 16
"""Times the weights that are to be free. On two cores such a model takes six times those of YOLOv8n-seg, and one and a
half those of YOLOv8x-seg: the outputs of its layers are in it."""


def channels_moved_last(model: ov.Model) -> tuple[ov.Model, frozenset[int]]:
    """Return a copy that takes images (N, H, W, 3) and gives maps (N, H, W, C), and the numbers of those outputs.

    It is how a CPU computes them. Turning the prototypes of YOLOv8n-seg round, of which few are read, takes OpenVINO
    5.2 ms of 66, in 8 bits of 35; turning the images takes it 1.9, OpenCV a tenth of that.
    """
    maps = frozenset(index for index, output in enumerate(model.outputs) if _is_map(output))
    steps = PrePostProcessor(model.clone())
    first, last = ov.Layout("NCHW"), ov.Layout("NHWC")
    steps.input().model().set_layout(first)
    steps.input().tensor().set_layout(last)
    for index in maps:
        steps.output(index).model().set_layout(first)
        steps.output(index).tensor().set_layout(last)
    return steps.build(), maps


def _is_map(output: ov.Output) -> bool:
    """Return True if an output is what a convolution has found, number by number."""
    shape, node = output.get_partial_shape(), output.get_node()
    if shape.rank.is_dynamic or len(shape) != 4:
        return False
    while node.get_type_name() in _ONE_BY_ONE:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() in _CONVOLUTIONS)


class Compiled:
    """A compiled model: it runs from several threads at once, each run with an idle request or a new one.

    Attributes:
        model: What OpenVINO has compiled.
        channels_last: It takes images with channels last in memory.

    Args:
        model: What OpenVINO has compiled.
        names: Of the outputs, in the order in which they are wanted.
        maps: Numbers of the outputs that come as (N, H, W, C); None where the input is not turned either.
    """

    def __init__(self, model: ov.CompiledModel, names: Sequence[str], maps: frozenset[int] | None) -> None:
        self.model = model
        self._kind = model.input(0).element_type.to_dtype()
        at = {name: index for index, output in enumerate(model.outputs) for name in output.get_names()}
        known = at.keys() >= set(names)  # a file of another tool's may have none
        self._outputs = [at[name] for name in names] if known else range(len(model.outputs))
        self._maps = maps or frozenset()
        self.channels_last = maps is not None
        self._idle: queue.SimpleQueue[tuple[ov.InferRequest, Images | None]] = queue.SimpleQueue()

    def run(self, images: Images) -> list[Array]:
        """Return the outputs of images (N, 3, H, W), each with its channels as they are in ONNX.

        They are where OpenVINO has written them; the request is used again when nobody holds them any more.
        """
        try:
            request, before = self._idle.get_nowait()
        except queue.Empty:
            request, before = self.model.create_infer_request(), None
        if self.channels_last and has_channels_last(images):
            images = images.transpose(0, 2, 3, 1)
        elif self.channels_last:
            images = before = channels_last(images, before)
        given = {0: images.astype(self._kind, copy=False)}
        found = request.infer(given, share_inputs=True, share_outputs=True)
        self._take_back([found[at] for at in set(self._outputs)], (request, before))
        return [np.moveaxis(found[at], -1, 1) if at in self._maps else found[at] for at in self._outputs]

    def _take_back(self, lent: list[Array], request: tuple[ov.InferRequest, Images | None]) -> None:
        """Have a request idle again as soon as the last of its outputs, and of views of them, is gone."""
        gone = itertools.count(1)

        def give_back() -> None:
            if next(gone) == len(given) and self._idle.qsize() < _IDLE:  # counted in one step, whoever lets go
                self._idle.put(request)

        given = [weakref.finalize(output, give_back) for output in lent]
        for each in given:
            each.atexit = False


class AnyShape:
    """A model of open axes, and models compiled for the shapes that keep coming, which say the same sooner.

    A shape gets one of its own as soon as that would have saved what compiling takes: at worst, when it never comes
    again, what could have been saved is lost once. Of more than are kept, one stays as long as it is in use.

    Args:
        model: The one of open axes.
        compile_for: Returns one that takes this shape only.
        seconds: What compiling has taken.
        size: Of its weights, in bytes.
    """

    def __init__(self, model: Compiled, compile_for: Callable[[Shape], Compiled], *, seconds: float, size: int) -> None:
        self.channels_last = model.channels_last
        self._model = model
        self._room = _ROOM * size
        self._compile = compile_for
        self._price = seconds
        self._begun: dict[Shape, tuple[int, float]] = {}
        self._own: dict[Shape, Compiled] = {}
        self._last: dict[Shape, int] = {}
        self._runs = 0
        self._is_making = False
        self._lock = threading.Lock()

    def run(self, images: Images) -> list[Array]:
        """Return the outputs of images (N, 3, H, W)."""
        shape = images.shape
        self._runs += 1
        if (own := self._own.get(shape)) is not None:
            self._last[shape] = self._runs
            return own.run(images)
        begin = time.perf_counter()
        outputs = self._model.run(images)
        if self._has_earned(shape, time.perf_counter() - begin):
            self._make(shape)
        return outputs

    def _has_earned(self, shape: Shape, seconds: float) -> bool:
        """Note what a run of a shape has taken; return True if a model of its own pays now, and has room."""
        with self._lock:
            since, spent = self._begun.get(shape, (self._runs, 0.0))
            self._begun[shape] = since, spent + seconds
            if self._is_making or shape in self._own or (spent + seconds) * _GAIN <= self._price:
                return False
            del self._begun[shape]
            if (available() or self._room) < self._room:
                return False
            if len(self._own) >= _MAX:
                longest = min(self._own, key=self._last.__getitem__)
                if self._last[longest] >= since:  # all are in use
                    return False
                self._own = {kept: own for kept, own in self._own.items() if kept != longest}
            self._is_making = True
            return True

    def _make(self, shape: Shape) -> None:
        """Compile for a shape, while other threads go on; where that fails, all go on with the model of open axes."""
        logger.debug("compiling for images of shape %s", shape)
        try:
            made = self._compile(shape)
        except Exception as error:  # noqa: BLE001 - OpenVINO's errors share no class, and the run itself has ended well
            logger.warning("not compiled for images of shape %s, which goes on as before: %s", shape, reason(error))
            self._price = math.inf
        else:
            self._last[shape] = self._runs
            self._own = {**self._own, shape: made}  # another dictionary: threads read it meanwhile
        finally:
            self._is_making = False
