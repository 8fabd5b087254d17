"""Channels where a CPU has them, and shapes that get a model of their own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest

from segx.artifact import ArtifactInfo
from segx.options.verbs import SessionOptions
from segx_backend_openvino import compiled, session
from segx_backend_openvino.backend import OpenvinoBackend
from segx_backend_openvino.compiled import AnyShape, channels_moved_last

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segx.artifact import Artifact

    MakeModel = Callable[..., Artifact]

OPEN = (None, 3, None, None)


def images(*size: int) -> np.ndarray:
    return np.random.default_rng(sum(size)).random((1, 3, *size), dtype=np.float32)


class Counted:
    """Stands in for what OpenVINO compiles: it says for which shape it was made."""

    channels_last = True

    def __init__(self, made: Any, shape: Any = None) -> None:
        self.made, self.shape, self.runs = made, shape, 0

    def run(self, given: Any) -> list[Any]:
        self.runs += 1
        return [self.shape, given.shape]


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have a run save so much that this many of them pay for compiling: times are made up."""
    clock = iter(range(10**6))

    def after(count: int) -> None:
        monkeypatch.setattr(compiled.time, "perf_counter", lambda: float(next(clock)))
        monkeypatch.setattr(compiled, "_GAIN", 1 / (count - 0.5))

    return after


def any_shape(made: list[Any]) -> AnyShape:
    def compile_for(shape: Any) -> Any:
        made.append(shape[2:])
        return Counted(made, shape[2:])

    return AnyShape(Counted(made), compile_for, seconds=1.0, size=1)  # type: ignore[arg-type]


def test_a_shape_gets_a_model_of_its_own_when_that_pays(paying: Any) -> None:
    paying(3)
    made: list[Any] = []
    model = any_shape(made)
    found = [model.run(images(32, size))[0] for size in (32, 64, 32, 32, 64, 32)]
    assert made == [(32, 32)]
    assert found == [None] * 5 + [(32, 32)]


def test_shapes_that_are_in_use_keep_theirs(paying: Any) -> None:
    """Of twelve shapes in turn three are compiled for, once."""
    paying(2)
    made: list[Any] = []
    model = any_shape(made)
    for _ in range(20):
        for size in range(32, 32 * 13, 32):
            model.run(images(32, size))
    assert made == [(32, size) for size in (32, 64, 96)]


def test_a_shape_that_is_out_of_use_gives_way(paying: Any) -> None:
    paying(2)
    made: list[Any] = []
    model = any_shape(made)
    for size in (32, 64, 96, 128, 160):
        for _ in range(4):
            model.run(images(32, size))
    assert made == [(32, size) for size in (32, 64, 96, 128, 160)]
    assert list(model._own) == [(1, 3, 32, size) for size in (96, 128, 160)]


def test_others_go_on_while_one_is_compiled(paying: Any) -> None:
    paying(1)
    begun, end = threading.Event(), threading.Event()

    def compile_for(shape: Any) -> Any:
        begun.set()
        assert end.wait(20)
        return Counted(None, shape)

    model = AnyShape(Counted(None), compile_for, seconds=1.0, size=1)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(model.run, images(32, 32))
        assert begun.wait(20)
        assert model.run(images(32, 32))[0] is None
        assert model.run(images(32, 64))[0] is None
        end.set()
        assert first.result()[0] is None
    assert model.run(images(32, 32))[0] == (1, 3, 32, 32)


def test_where_compiling_fails_runs_go_on(paying: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The run itself has ended well; it is not tried again, and said once."""
    paying(1)
    tried: list[Any] = []

    def compile_for(shape: Any) -> Any:
        tried.append(shape)
        raise RuntimeError("no memory")

    model = AnyShape(Counted(None), compile_for, seconds=1.0, size=1)  # type: ignore[arg-type]
    assert [model.run(images(32, 32))[0] for _ in range(5)] == [None] * 5
    assert len(tried) == 1
    assert "no memory" in caplog.text


def test_nothing_is_compiled_where_memory_is_short(paying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paying(1)
    made: list[Any] = []
    model = any_shape(made)
    monkeypatch.setattr(compiled, "available", lambda: 15)
    model.run(images(32, 32))
    assert not made
    monkeypatch.setattr(compiled, "available", lambda: 16)
    model.run(images(32, 32))
    assert made == [(32, 32)]


@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_a_model_of_its_own_says_the_same(
    make_folder: MakeModel, make_onnx: MakeModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_GAIN", 1e9)
    artifact = (make_onnx if kind == "onnx" else make_folder)(OPEN)
    run = OpenvinoBackend().open(artifact, SessionOptions(device="cpu", streams=2, threads=1))
    for size in ((64, 96), (32, 64), (64, 96)):
        before, after = run.run(images(*size)), run.run(images(*size))
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(run._model._own) == 2  # type: ignore[attr-defined]


def test_a_model_of_one_shape_has_nothing_to_choose(make_folder: MakeModel) -> None:
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device="cpu"))
    assert isinstance(run._model, compiled.Compiled)


def test_maps_of_convolutions_have_their_channels_last(make_onnx: MakeModel) -> None:
    """The mean over channels, which no convolution has found, stays as it is; the model that was read does, too."""
    model = session.read_model(make_onnx().path)
    moved, maps = channels_moved_last(model)
    assert maps == {0}
    assert [list(port.get_partial_shape().to_shape()) for port in (moved.input(0), *moved.outputs)] == [
        [1, 64, 96, 3],
        [1, 64, 96, 4],
        [1, 1, 64, 96],
    ]
    assert list(model.input(0).get_partial_shape().to_shape()) == [1, 3, 64, 96]


def test_a_map_behind_an_activation_counts_as_a_convolutions() -> None:
    source = ov.opset13.parameter([1, 3, 8, 8], ov.Type.f32)
    weights = ov.opset13.constant(np.ones((4, 3, 1, 1), np.float32))
    map_ = ov.opset13.convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    silu = ov.opset13.multiply(map_, ov.opset13.sigmoid(map_))
    flat = ov.opset13.reshape(map_, ov.opset13.constant([1, 4, 8, 8]), special_zero=False)
    _, maps = channels_moved_last(ov.Model([silu, flat], [source]))
    assert maps == {0}


def test_a_request_is_used_again_when_nobody_holds_its_outputs(make_folder: MakeModel) -> None:
    """Outputs lie where OpenVINO has written them, so that views of them keep a request from being used."""
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device="cpu"))
    idle = run._model._idle  # type: ignore[attr-defined]
    first, mean = run.run(images(64, 96))
    view, wanted = first[0, :, 8:16], first[0, :, 8:16].copy()
    assert idle.empty()
    del first, mean
    assert idle.empty(), "a view is still held"
    run.run(images(64, 96) * 0)
    assert idle.qsize() == 1, "another request has run"
    np.testing.assert_array_equal(view, wanted)
    del view
    assert idle.qsize() == 2
    for _ in range(5):
        run.run(images(64, 96))
    assert idle.qsize() == 2


def test_requests_come_back_from_many_threads(make_folder: MakeModel) -> None:
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device="cpu", streams=2, threads=1))
    batches = [images(64, 96) * np.float32(scale) for scale in range(64)]
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda batch: float(run.run(batch)[0].sum()), batches))
    alone = [float(run.run(batch)[0].sum()) for batch in batches]
    assert sums == alone
    assert run._model._idle.qsize() <= 4  # type: ignore[attr-defined]


def test_an_output_of_no_known_rank_is_no_map() -> None:
    source = ov.opset13.parameter([1, 3, 8, 8], ov.Type.f32)
    shape = ov.opset13.parameter([-1], ov.Type.i64)
    anything = ov.opset13.reshape(source, shape, special_zero=False)
    assert not compiled._is_map(anything.output(0))


def test_images_are_never_written_to(make_folder: MakeModel) -> None:
    """What lies as OpenVINO takes it is read where it lies, and is not what the next images are turned round into."""
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device="cpu"))
    last = np.random.default_rng(1).random((1, 64, 96, 3), np.float32).transpose(0, 3, 1, 2)
    before, other = last.copy(), images(64, 96)
    for given in (last, other, last, other):
        run.run(given)
    np.testing.assert_array_equal(last, before)
    for one, same in zip(run.run(last), run.run(last.copy()), strict=True):
        np.testing.assert_array_equal(one, same)


def test_few_requests_are_kept(make_folder: MakeModel) -> None:
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device="cpu"))
    held = [run.run(images(64, 96)) for _ in range(12)]
    del held
    assert run._model._idle.qsize() == 8  # type: ignore[attr-defined]


def test_what_is_open_inside_only_is_no_shape_to_choose(tmp_path: Path) -> None:
    """A graph that suppresses has open axes within; its input has one shape, for which it has been compiled."""
    source = ov.opset13.parameter([1, 3, 64, 96], ov.Type.f32, name="images")
    found = ov.opset13.non_zero(ov.opset13.reshape(source, ov.opset13.constant([3 * 64 * 96]), special_zero=False))
    count = ov.opset13.reduce_sum(found, ov.opset13.constant([1]), keep_dims=True)
    model = ov.Model([count], [source])
    assert model.is_dynamic()
    ov.save_model(model, str(tmp_path / "m.xml"))
    info = ArtifactInfo(imgsz=(64, 96), outputs=("output0",))
    run = session.start(tmp_path / "m.xml", tmp_path, info, SessionOptions(device="cpu"))
    assert isinstance(run._model, compiled.Compiled)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_session_takes_images_as_its_graph_does(make_folder: MakeModel, device: str) -> None:
    """What AUTO compiles is not turned round, on a CPU neither."""
    run = OpenvinoBackend().open(make_folder(), SessionOptions(device=device))
    assert run.device == "cpu"
    assert run.channels_last == (device == "cpu")  # type: ignore[attr-defined]
    last = np.random.default_rng(1).random((1, 64, 96, 3), np.float32).transpose(0, 3, 1, 2)
    for one, same in zip(run.run(last), run.run(last.copy()), strict=True):
        np.testing.assert_array_equal(one, same)
