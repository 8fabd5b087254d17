"""How a network is run on a device: what comes again is replayed."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from segx_torch import running as module
from segx_torch.running import _USUAL, Running, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes a third time is expected to keep coming."""
    monkeypatch.setitem(module._USUAL, "cpu", 3)


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


class Counted(nn.Module):
    """Two outputs, nested; says how often Python computed them."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers.requires_grad_(requires_grad=False)
        self.calls = 0

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.calls += 1
        found = self.layers(images)
        return found, [found.flatten(2).softmax(1)]


def test_a_cpu_replays_the_same_numbers_without_python() -> None:
    model = Counted(network())
    running, plain = Running(model, CPU, torch.float32, traceable=True), Running(model, CPU, torch.float32)
    with torch.inference_mode():
        for _ in range(_USUAL["cpu"]):
            running(images(2))
        model.calls = 0
        for seed in range(4):
            batch = np.random.default_rng(seed).random((2, 3, 32, 32), np.float32)
            for given in (batch, np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
                found, calls = running(given), model.calls
                assert calls == 0
                for one, other in zip(found, plain(given), strict=True):
                    assert np.array_equal(one, other)
                model.calls = 0


def test_threads_replay_their_own_images() -> None:
    model = Counted(network())
    running, plain = Running(model, CPU, torch.float32, traceable=True), Running(model, CPU, torch.float32)
    batches = [np.random.default_rng(seed).random((1, 3, 32, 32), np.float32) for seed in range(40)]

    def run(given: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.inference_mode():
            return running(given)[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, batches * 5))
    with torch.inference_mode():
        for one, batch in zip(found, batches * 5, strict=True):
            assert np.array_equal(one, plain(batch)[0])


def test_what_torch_records_is_freed_with_its_model() -> None:
    kept = len(torch.jit._state._python_cu.get_functions())
    model = Counted(network())
    running = Running(model, CPU, torch.float32, traceable=True)
    with torch.inference_mode():
        for _ in range(_USUAL["cpu"] + 1):
            running(images(1))
    weight = weakref.ref(model.layers[0].weight)
    assert len(torch.jit._state._python_cu.get_functions()) == kept
    del running, model
    gc.collect()
    assert weight() is None


def test_programs_that_watch_operators_or_all_layers_see_them() -> None:
    class Watch(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return func(*args, **(kwargs or {}))

    model = Counted(network())
    running = Running(model, CPU, torch.float32, traceable=True)
    with torch.inference_mode():
        with Watch() as watch:
            found = [running(images(1))[0] for _ in range(_USUAL["cpu"] + 3)]
        assert watch.seen >= 2 * len(found)
        found += [running(images(1))[0] for _ in range(_USUAL["cpu"] + 3)]
        model.calls, layers = 0, list[nn.Module]()
        running(images(1))
        assert model.calls == 0  # it is replayed
        hook = nn.modules.module.register_module_forward_hook(lambda layer, *_: layers.append(layer))
        try:
            found.append(running(images(1))[0])
        finally:
            hook.remove()
        assert model in layers
    assert all(np.array_equal(one, found[0]) for one in found)


def test_a_model_that_does_not_say_so_is_not_recorded_on_a_cpu() -> None:
    model = Counted(network())
    running = Running(model, CPU, torch.float32)
    with torch.inference_mode():
        for _ in range(_USUAL["cpu"] + 5):
            running(images(1))
    assert model.calls == _USUAL["cpu"] + 5


def test_what_torch_cannot_record_runs_layer_by_layer() -> None:
    model = Counted(network())
    model.layers.requires_grad_(requires_grad=True)  # no constant of a graph
    running = Running(model, CPU, torch.float32, traceable=True)
    with torch.inference_mode():
        found = [running(images(1))[0] for _ in range(_USUAL["cpu"] + 3)]
    assert np.array_equal(found[0], found[-1])
    assert model.calls >= _USUAL["cpu"] + 3


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


def test_a_cpu_has_every_convolution_computed_by_onednn() -> None:
    """With one thread torch computes those of 1x1 in another way, in half as much time again."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1, groups=2, bias=False))
    batch = torch.rand(1, 3, 160, 192)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            wanted = model(batch)
            ready = prepare(model, CPU, torch.float32)
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                found = ready(batch)
    finally:
        torch.set_num_threads(threads)
    calls = {event.key: event.count for event in seen.key_averages()}
    assert calls["aten::mkldnn_convolution"] == 3
    assert "aten::_slow_conv2d_forward" not in calls
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_onednn_is_not_given_is_computed_as_ever() -> None:
    layers = [nn.Conv2d(3, 4, 1, padding="same"), nn.Conv2d(4, 4, 1, padding=1, padding_mode="reflect")]
    model, batch = nn.Sequential(*layers), torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        wanted = model(batch)
        torch.testing.assert_close(prepare(model, CPU, torch.float32)(batch), wanted, rtol=0, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert prepare(nn.Sequential(nn.Conv2d(3, 4, 1)), CPU, torch.float32)(batch).dtype == torch.bfloat16


def test_hooks_of_a_prepared_layer_are_called() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    heard: list[tuple[int, ...]] = []
    model[0].register_forward_hook(lambda _layer, _given, output: heard.append(tuple(output.shape)))
    prepare(model, CPU, torch.float32)(torch.rand(1, 3, 8, 8))
    assert heard == [(1, 4, 8, 8)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8)])
def test_numbers_and_shapes_that_onednn_does_not_take(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A layer of somebody's may compute in more or fewer bits, or on one image without an axis for it."""
    model, batch = nn.Sequential(nn.Conv2d(3, 4, 1)).to(dtype), torch.rand(shape).to(dtype)
    with torch.inference_mode():
        wanted = model(batch)
        torch.testing.assert_close(prepare(model, CPU, dtype)(batch), wanted)
