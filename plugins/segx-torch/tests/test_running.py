"""How a network is run on a device: what comes again is replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from segx_torch.running import Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class Recorder:
    """Captures as a GPU would: what it returns runs the model, and says so."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, model: nn.Module, images: Tensor, _pool: Any) -> Callable[[Tensor], Any]:
        self.captured.append(tuple(images.shape))

        def replay(tensor: Tensor) -> Any:
            self.replayed.append(tuple(tensor.shape))
            return model(tensor)

        return replay


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(count).random((count, 3, 32, 32), np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 1)).eval()


def test_a_shape_that_keeps_coming_is_captured_once_and_replayed() -> None:
    recorder = Recorder()
    running = Running(network(), CPU, torch.float32, capture=recorder)
    with torch.inference_mode():
        for count in (1, 2, 1, 1, 1, 2):
            running(images(count))
    assert recorder.captured == [(1, 3, 32, 32)]
    assert recorder.replayed == [(1, 3, 32, 32)] * 2


def test_few_shapes_are_kept_and_the_oldest_goes() -> None:
    recorder = Recorder()
    running = Running(network(), CPU, torch.float32, capture=recorder)
    with torch.inference_mode():
        for count in (1, 2, 3, 4, 5):
            for _ in range(3):
                running(images(count))
        running(images(2))
        assert recorder.replayed[-1] == (2, 3, 32, 32)
        told = len(recorder.replayed)
        running(images(1))
    assert len(recorder.replayed) == told


def test_shapes_that_take_turns_are_not_captured_each_time() -> None:
    recorder = Recorder()
    running = Running(network(), CPU, torch.float32, capture=recorder)
    with torch.inference_mode():
        for turn in range(200):
            running(images(1 + turn % 5))
    assert len(recorder.captured) < 30


def test_nothing_is_captured_while_precisions_are_chosen_by_torch() -> None:
    recorder = Recorder()
    running = Running(network(), CPU, torch.float32, capture=recorder)
    with torch.inference_mode(), torch.autocast("cpu"):
        for _ in range(5):
            running(images(1))
    assert recorder.captured == []


def test_what_cannot_be_captured_runs_layer_by_layer() -> None:
    asked = []

    def refuse(_model: nn.Module, images: Tensor, _pool: Any) -> Callable[[Tensor], Any]:
        asked.append(tuple(images.shape))
        raise RuntimeError("operation not permitted when stream is capturing")

    running = Running(network(), CPU, torch.float32, capture=refuse)
    plain = Running(network(), CPU, torch.float32)
    with torch.inference_mode():
        for _ in range(6):
            assert np.array_equal(running(images(1))[0], plain(images(1))[0])
    assert len(asked) == 1


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_replays_the_same_numbers(dtype: torch.dtype) -> None:
    device = torch.device("cuda:0")
    running = Running(network().to(device, dtype), device, dtype)
    plain = Running(network().to(device, dtype), device, dtype)
    plain._capture = None
    with torch.inference_mode():
        first = [running(images(count))[0] for _ in range(5) for count in (1, 2, 3)]
        assert running._capture is not None
        assert all(shape.replay is not None for shape in running._shapes.values())
        for found, count in zip(first, [1, 2, 3] * 5, strict=True):
            assert np.array_equal(found, plain(images(count))[0])
