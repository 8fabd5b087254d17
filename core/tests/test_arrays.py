"""Arrays of any runtime become NumPy's own, and what a runtime answers is checked before it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.flows.parity import prove
from segx.flows.runner import infer
from segx.ops.arrays import to_numpy
from segx.options.verbs import DecodeOptions
from segx.plugin.registry import get_registry
from segx.plugin.specs import Tolerance
from segx.testing import parity as kit
from segx.testing.scenes import NAMES, ColorSession, draw_scene, noise_images

if TYPE_CHECKING:
    from segx.structures.batch import Batch

VALUES = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


class OnlyDlpack:
    """What bindings of runtimes hand out."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class OnDevice:
    """Refuses to be copied unasked, as arrays on GPUs do."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion is not allowed: use .get()")

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("not in memory of the CPU")

    def __dlpack_device__(self) -> Any:
        return 2, 0

    def get(self) -> Any:
        return self.array


KINDS = (np.asarray, list, OnlyDlpack, OnDevice)


@pytest.mark.parametrize("kind", KINDS)
def test_any_array_is_numpys(kind: Any) -> None:
    array = to_numpy(kind(VALUES))
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, VALUES)


def test_a_tensor_with_a_gradient_is_numpys() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(to_numpy(torch.from_numpy(VALUES.copy()).requires_grad_()), VALUES)


@pytest.mark.parametrize("kind", [OnlyDlpack, OnDevice])
def test_proof_decoding_and_contract_take_the_same_arrays(kind: Any) -> None:
    class Elsewhere(ColorSession):
        def run(self, images: Any) -> tuple[Any, ...]:
            return tuple(kind(output) for output in super().run(images))

    task = get_registry().tasks.load("segment")
    assert prove(ColorSession(), Elsewhere(), task=task, tolerance=Tolerance()).holds
    scene = draw_scene(objects=3)
    batch = task.preprocess([scene.source], (320, 320))
    session = Elsewhere()
    assert len(task.decode(session.run(batch.images), batch, session.info, DecodeOptions())[0]) == 3
    kit.assert_same_outputs(session.run(batch.images), ColorSession().run(batch.images), names=("a", "b"))


class Answering(ColorSession):
    def __init__(self, answer: Any) -> None:
        super().__init__(ArtifactInfo(names=NAMES, imgsz=(64, 64)))
        self.answer = answer

    def run(self, images: Any) -> Any:
        return self.answer(*super().run(images))


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (lambda rows, _: (rows,), "gave 1 outputs; its metadata name 2: output0, output1"),
        (lambda rows, protos: (rows, protos, rows), "gave 3 outputs"),
        (lambda rows, _: rows, "gave a ndarray, not outputs"),
        (lambda *_: None, "gave a NoneType, not outputs"),
        (lambda rows, protos: {"output0": rows, "output1": protos}, "gave a dict, not outputs"),
        (lambda rows, protos: (rows[:0], protos), "'output0' of the model has shape (0, 39, 84) for 2 images"),
        (lambda rows, protos: (rows, np.concatenate([protos, protos])), "'output1' of the model has shape (4, "),
        (lambda rows, _: (rows, np.float32(1)), "'output1' of the model has shape () for 2 images"),
        (lambda rows, _: (rows, np.array(["a", "b"])), "'output1' of the model holds str"),
        (lambda rows, _: (rows, [{"a": 1}, {"a": 2}]), "'output1' of the model holds object, not numbers"),
        (lambda rows, _: (rows, [[1.0], [1.0, 2.0]]), "a list cannot be read as an array"),
        (lambda rows, protos: (rows.astype(complex), protos), "holds complex128, not numbers"),
    ],
)
def test_an_answer_of_another_kind_is_reported(answer: Any, reported: str) -> None:
    with pytest.raises(ModelError) as caught:
        infer(Answering(answer), noise_images((2, 3, 64, 64)))
    assert reported in caught.value.message
    assert "\n" not in caught.value.message


def test_numbers_of_any_width_are_float32() -> None:
    rows, prototypes = infer(
        Answering(lambda rows, protos: (rows.astype(np.float64) * 1e300, protos.astype(np.float16))),
        noise_images((2, 3, 64, 64)),
    )
    assert rows.dtype == prototypes.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("row", [0, 2, 4, 10])
@pytest.mark.parametrize("retina", [True, False])
def test_an_object_that_is_not_finite_is_dropped(value: float, row: int, *, retina: bool) -> None:
    task = get_registry().tasks.load("segment")
    batch: Batch = task.preprocess([draw_scene(objects=3).source], (320, 320))
    session = ColorSession()
    rows, prototypes = session.run(batch.images)
    wanted = task.decode((rows, prototypes), batch, session.info, DecodeOptions(retina_masks=retina))[0]
    rows[:, row, 0] = value
    found = task.decode((rows, prototypes), batch, session.info, DecodeOptions(retina_masks=retina))[0]
    assert len(wanted) == 3
    np.testing.assert_array_equal(found.boxes.data, wanted.boxes.data[1:])
    prototypes[0, :, 3, 3] = value
    assert len(task.decode((rows, prototypes), batch, session.info, DecodeOptions(retina_masks=retina))[0]) == 2
