"""Runs a network on a device; what comes again is replayed as one piece, without Python between its layers."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from segx.runtime.pytorch import flat, to_device, to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from segx.structures.types import Images

    Capture = Callable[["nn.Module", Tensor, Any], Callable[[Tensor], Any]]

logger = logging.getLogger(__name__)

_USUAL = {"cuda": 3, "cpu": 64}
"""Runs of one shape after which more of it are expected: what a capture costs, in what a replay saves."""
_MAX = 4
"""Shapes that are kept for replay."""
_FAILURES = RuntimeError, TypeError, AttributeError
"""What a capture may end in, in torch as it is and as it may become."""
_capturing = threading.Lock()
"""Of all models: a capture waits for the GPU, which is forbidden while another one is going on."""


@dataclass
class _Shape:
    usual: int
    runs: int = 0
    replay: Callable[[Tensor], Any] | None = None


class Running:
    """A network on its device.

    A GPU is done with the layers of a small network long before Python has launched them one by one, and each launch
    needs Python's lock, which the threads that read images and form masks want too: an image took 7 ms where it takes
    1.3 ms as a CUDA graph (yolov8n-seg at 640 on an H200). On a CPU it is the lock alone, a twelfth of the time of a
    folder. So a shape that keeps coming is captured once, and replayed from then on; the numbers are the same.

    Args:
        model: In eval mode, on the device, with its weights in ``dtype``.
        device: Where it runs.
        dtype: What it computes in.
        capture: Makes a replay of a model, an input and a memory pool; default: a CUDA graph on a GPU, on a CPU the
            graph that torch traces, if the model is ``traceable``.
        hooked: Says whether functions are to be called beside layers now, which a replay would not; default: never.
        traceable: It computes in the same steps whatever the images hold.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        capture: Capture | None = None,
        hooked: Callable[[], bool] | None = None,
        traceable: bool = False,
    ) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        traced = _traced_graph if device.type == "cpu" and traceable else None
        self._capture = capture or (_cuda_graph if device.type == "cuda" else traced)
        self._hooked = hooked
        self._shapes: dict[tuple[int, ...], _Shape] = {}
        self._pool: Any = None
        self._lock = threading.Lock()

    def __call__(self, images: Images) -> tuple[NDArray[np.float32], ...]:
        """Return the raw outputs of float32 (N, 3, H, W) images in 0..1, as float32 arrays."""
        if self._capture is None or (self._hooked is not None and self._hooked()):
            return to_numpy(self._model(to_device(images, self._device, self._dtype)))
        tensor = to_device(images, self._device, self._dtype)
        with self._lock:
            model = self._replay_of(tensor) or self._model
            if self._device.type == "cuda":  # replays share their memory
                return to_numpy(model(tensor))
        return to_numpy(model(tensor))

    def _replay_of(self, images: Tensor) -> Callable[[Tensor], Any] | None:
        if torch.is_autocast_enabled(self._device.type) or _is_watched():
            return None  # a graph would keep the precisions that hold just here, and show nobody its layers
        shape = self._shapes.pop(tuple(images.shape), None) or _Shape(_USUAL.get(self._device.type, 1))
        self._shapes[tuple(images.shape)] = shape  # the last used comes last
        shape.runs += 1
        if shape.replay is None and shape.runs >= shape.usual and self._capture is not None:
            try:
                shape.replay = self._capture(self._model, images, self._pool_of_all())
            except _FAILURES as error:  # a layer that waits for the CPU, or memory that has run out
                logger.debug("not captured, launched layer by layer: %s", error)
                self._capture = None
            kept = [other for other in self._shapes.values() if other.replay is not None]
            for other in kept[:-_MAX]:  # a capture costs as much as many runs: many shapes must not take turns
                other.replay, other.runs, other.usual = None, 0, 2 * other.usual
        return shape.replay

    def _pool_of_all(self) -> Any:
        if self._pool is None and self._device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


def _cuda_graph(model: nn.Module, images: Tensor, pool: Any) -> Callable[[Tensor], Any]:
    """Return a replay of a model; its outputs hold until the next replay from the same pool."""
    device = images.device
    with _capturing, torch.cuda.device(device):
        held = images.clone()
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # what is chosen and cached on a first run is not part of the graph
            model(held)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            outputs = model(held)

    def replay(tensor: Tensor) -> Any:
        held.copy_(tensor)
        graph.replay()
        return outputs

    return replay


def _traced_graph(model: nn.Module, images: Tensor, _pool: Any) -> Callable[[Tensor], Any]:
    """Return a replay of a model that holds Python's lock at neither layer.

    ``torch.jit.trace`` would keep each of them for as long as the process lives, some 10 MB; this is what stands below
    it, and is freed with its replay.
    """
    graph, _ = torch._C._create_graph_by_tracing(  # noqa: SLF001 - see above
        lambda tensor: tuple(flat(model(tensor))), (images,), lambda _: "", True, False, None, ["images"]
    )
    return cast("Callable[[Tensor], Any]", torch._C._create_function_from_graph("replay", graph))  # noqa: SLF001


def _is_watched() -> bool:
    """Return True if a program looks at every operator, or at every layer there is: to count, to profile.

    Or if torch no longer says so.
    """
    try:
        hooks = torch.nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]  # noqa: SLF001
        return bool(hooks or torch._C._len_torch_dispatch_stack())  # noqa: SLF001 - a trace under a mode fails to run
    except AttributeError:
        return True


class Conv2d(nn.Conv2d):
    """A convolution that oneDNN computes, whatever torch would choose."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return (N, channels, H, W) for (N, inputs, H, W)."""
        is_images = input.dim() == 4 and input.dtype == self.weight.dtype == torch.float32
        is_plain = self.padding_mode == "zeros" and not torch.is_autocast_enabled("cpu")
        if not is_images or not is_plain or isinstance(self.padding, str):
            return super().forward(input)
        layout = self.padding, self.stride, self.dilation, self.groups
        return torch.mkldnn_convolution(input, self.weight, self.bias, *layout)


def prepare(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a model moved to a device for inference, changed in place.

    On a CPU convolutions of 1x1 go to oneDNN as all others do. With one thread torch computes them in another way, a
    fifth of the time of YOLOv8n-seg, and in half of that they are done so.
    """
    model = model.eval().to(device, dtype)
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        for layer in model.modules():
            if type(layer) is nn.Conv2d and layer.kernel_size == (1, 1):
                layer.__class__ = Conv2d
    return model
