"""The contract kit: standard tests cannot be overridden, a mark needs a reason, and a plugin that is wrong fails."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pytest

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ModelError
from segx.options.schema import option
from segx.options.verbs import ExportOptions
from segx.plugin.registry import Registry, get_registry
from segx.plugin.specs import ExporterSpec
from segx.structures.masks import Masks
from segx.testing import BackendContract, TaskContract, models
from segx.testing.parity import assert_follows, assert_same_outputs
from segx.testing.scenes import NAMES, ColorSession, draw_scene, noise_images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segx.plugin.interfaces import Task
    from segx.structures.batch import Batch


# The rule


def test_a_standard_test_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match=r"Mine overrides the standard test 'test_runs'.*xfail = \{\"test_runs\""):

        class Mine(BackendContract):
            def test_runs(self) -> None: ...


def test_nor_removed_nor_overridden_further_down() -> None:
    class Mine(BackendContract):
        name = "mine"

    with pytest.raises(TypeError, match="test_speaks_this_api"):

        class Removed(Mine):
            test_speaks_this_api = None


def test_fixtures_attributes_and_further_tests_are_free() -> None:
    class Mine(BackendContract):
        name = "mine"

        @pytest.fixture
        def artifact(self) -> None: ...

        def test_of_mine(self) -> None: ...

    class Further(Mine):
        def test_of_mine(self) -> None: ...

    assert Further.test_runs is BackendContract.test_runs


def test_a_known_failure_is_marked_with_its_reason_in_one_class_only() -> None:
    class Mine(BackendContract):
        xfail: ClassVar = {"test_runs": "the runtime is broken, see issue 7"}

    (mark,) = Mine.test_runs.pytestmark  # type: ignore[attr-defined]
    assert mark.name == "xfail"
    assert mark.kwargs == {"reason": "the runtime is broken, see issue 7", "strict": True}
    assert not hasattr(BackendContract.test_runs, "pytestmark")
    assert Mine.test_runs.__code__ is BackendContract.test_runs.__code__


def test_a_mark_keeps_the_parameters_of_its_test() -> None:
    class Mine(BackendContract):
        xfail: ClassVar = {"test_damaged_file_is_reported": "it crashes"}

    names = [mark.name for mark in Mine.test_damaged_file_is_reported.pytestmark]  # type: ignore[attr-defined]
    assert sorted(names) == ["parametrize", "xfail"]
    assert [mark.name for mark in BackendContract.test_damaged_file_is_reported.pytestmark] == ["parametrize"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "reason"), [("test_runs", ""), ("test_runs", " "), ("test_no_such", "why"), ("name", "why")]
)
def test_a_mark_names_a_standard_test_and_a_reason(name: str, reason: str) -> None:
    with pytest.raises(TypeError, match="xfail"):
        type("Mine", (BackendContract,), {"xfail": {name: reason}})


# Images and the model that sees them


@pytest.mark.parametrize("objects", [0, 1, 3, 9])
def test_drawn_objects_are_apart_and_as_told(objects: int) -> None:
    scene = draw_scene(300, 420, objects=objects)
    assert len(scene.objects) == objects
    together = sum((item.mask.astype(int) for item in scene.objects), np.zeros((300, 420), int))
    assert together.max(initial=0) <= 1
    for item in scene.objects:
        colour = [255 if channel == 2 - item.category else 0 for channel in range(3)]
        assert (scene.image[item.mask] == colour).all()
    assert (scene.image[together == 0] == 96).all()


def test_the_color_model_sees_each_object_once() -> None:
    scene = draw_scene(320, 320, objects=9)
    images = np.ascontiguousarray(scene.image[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32) / 255
    rows, prototypes = ColorSession().run(images)
    assert rows.shape == (1, 4 + len(NAMES) + 32, 40 * 40 + 20 * 20 + 10 * 10)
    assert prototypes.shape == (1, 32, 80, 80)
    assert (rows[0, 4:7].max(axis=0) > 0).sum() == 9
    with pytest.raises(ModelError):
        ColorSession().run(noise_images((1, 3, 100, 100)))


# What is quantised


def test_coarse_numbers_follow_their_source_and_a_blind_model_does_not() -> None:
    random = np.random.default_rng(3)
    wanted = [[random.normal(size=(1, 8, 20)), random.normal(size=(1, 4, 6, 6)) + 9] for _ in range(4)]
    coarse = [[np.round(output * 8) / 8 for output in outputs] for outputs in wanted]
    assert_follows(coarse, wanted, names=("a", "b"))
    blind = [[*outputs[:1], wanted[0][1]] for outputs in wanted]
    with pytest.raises(AssertionError, match=r"b follows its source by 0\.000"):
        assert_follows(blind, wanted, names=("a", "b"))
    swapped = [[outputs[0][:, ::-1], outputs[1]] for outputs in wanted]
    with pytest.raises(AssertionError, match="a follows its source by"):
        assert_follows(swapped, wanted, names=("a", "b"))


@pytest.mark.parametrize(
    ("channels", "change"),
    [(slice(4, 6), lambda scores: scores * 0), (slice(4, 6), lambda scores: scores / 2), (slice(6, 9), np.flip)],
)
def test_a_channel_that_is_wrong_is_found_beside_larger_numbers(channels: slice, change: Any) -> None:
    """As where scores share the step of boxes in pixels: over all channels together nothing is to be seen of it."""
    random = np.random.default_rng(3)
    scale = np.array([200.0] * 4 + [0.3] * 2 + [1.0] * 3)[:, None]
    wanted = [[scale * random.random((1, 9, 40))] for _ in range(4)]
    coarse = [[output + scale * random.normal(0, 0.03, output.shape) for output in outputs] for outputs in wanted]
    assert_follows(coarse, wanted, names=["rows"])
    for outputs in coarse:
        outputs[0][:, channels] = change(outputs[0][:, channels])
    with pytest.raises(AssertionError, match=r"rows: channel \d is off by"):
        assert_follows(coarse, wanted, names=["rows"])


class HalvedOptions(ExportOptions):
    """Options of a format that is made of another one."""

    half: bool = option(False, "smaller numbers")


def test_the_kit_makes_what_is_on_the_way_as_an_export_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between stays in full precision: the last exporter lowers it."""
    pytest.importorskip("torch")
    seen = []

    class Seeing:
        def check(self, info: Any, options: Any) -> None: ...

        def export(self, source: Any, job: Any) -> Any:
            seen.append((getattr(job.options, "half", None), job.info.precision))
            job.destination.write_bytes(b"x")
            return job.info

    first, second = (
        ExporterSpec(
            name=name,
            summary="s",
            load=cast("Any", Seeing),
            suffix=f".{name}",
            source=source,
            options=HalvedOptions,
            precisions=("fp32", "fp16"),
            provider="x",
        )
        for name, source in (("first", "model"), ("second", "first"))
    )
    discovery = get_registry()._discovery
    exporters = (*discovery.declared["exporter"], first, second)
    registry = Registry(dataclasses.replace(discovery, declared={**discovery.declared, "exporter": exporters}))
    monkeypatch.setattr(models, "get_registry", lambda: registry)
    _, info = models.export_file("second", tmp_path, models.tiny_module(models.tiny_info()), half=True)
    assert seen == [(False, "fp32"), (True, "fp16")]
    assert info.precision == "fp16"


# A task that is wrong in one way fails the test that is about it


@dataclasses.dataclass
class Wrong:
    """A task that does one thing differently."""

    task: Task
    changes: dict[str, Callable[..., Any]]

    def __getattr__(self, name: str) -> Any:
        original = getattr(self.task, name)
        change = self.changes.get(name)
        return (lambda *a, **k: change(original(*a, **k))) if change else original


def _bgr(batch: Batch) -> Batch:
    return dataclasses.replace(batch, images=np.ascontiguousarray(batch.images[:, ::-1]))


def _shifted(batch: Batch) -> Batch:
    return dataclasses.replace(batch, geometry=tuple(dataclasses.replace(g, left=g.left + 5) for g in batch.geometry))


def _brighter(batch: Batch) -> Batch:
    return dataclasses.replace(batch, images=batch.images * 255)


def _without_masks(found: list[Any]) -> list[Any]:
    return [results.replace(masks=Masks.empty(results.orig_shape)) for results in found]


def _filled(found: list[Any]) -> list[Any]:
    """Masks that are boxes."""
    out = []
    for results in found:
        dense = np.zeros_like(results.masks.data)
        for plane, box in zip(dense, results.boxes.xyxy.astype(int), strict=True):
            plane[box[1] : box[3], box[0] : box[2]] = 1
        out.append(results.replace(masks=Masks.from_dense(dense, results.orig_shape)))
    return out


def _half_drawn(found: list[Any]) -> list[Any]:
    for results in found:
        results.plot = lambda plot=results.plot: plot()[::2]
    return found


def _reversed(found: list[Any]) -> list[Any]:
    return found[::-1]


MUTANTS = [
    ("test_input_is_red_green_blue_from_0_to_1", {"preprocess": _bgr}, ()),
    ("test_input_is_red_green_blue_from_0_to_1", {"preprocess": _brighter}, ()),
    ("test_image_lies_in_the_input_undistorted", {"preprocess": _shifted}, ((100, 333),)),
    ("test_image_lies_in_the_input_undistorted", {"preprocess": _brighter}, ((100, 333),)),
    (
        "test_input_shape_follows_the_stride",
        {"input_shape": lambda shape: (shape[0] - 1, shape[1])},
        ((240, 320), (320, 320)),
    ),
    ("test_finds_what_is_there", {"preprocess": _shifted}, ("session", (240, 320), (320, 320))),
    ("test_finds_what_is_there", {"preprocess": _bgr}, ("session", (240, 320), (320, 320))),
    ("test_finds_what_is_there", {"decode": _filled}, ("session", (240, 320), (320, 320))),
    ("test_results_keep_their_image", {"decode": _reversed}, ("session",)),
    ("test_masks_are_formed_when_asked_for", {"decode": lambda found: [r[:1] for r in found]}, ("session",)),
    ("test_parity_with_itself_is_perfect", {"parity": lambda p: dataclasses.replace(p, mask_iou=0.999)}, ("session",)),
    ("test_parity_reports_differences", {"parity": lambda p: dataclasses.replace(p, box=0.0)}, ("session",)),
    ("test_parity_reports_differences", {"parity": lambda p: dataclasses.replace(p, matched=1.0)}, ("session",)),
    ("test_parity_of_nothing_is_perfect", {"parity": lambda p: dataclasses.replace(p, matched=0.0)}, ("session",)),
    ("test_draws_on_a_copy", {"decode": _half_drawn}, ("session",)),
]


@pytest.mark.parametrize(("test", "changes", "arguments"), MUTANTS)
def test_a_wrong_task_is_found_out(test: str, changes: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    registry = get_registry()
    if "segment" not in registry.tasks:
        pytest.skip("no task is installed")
    given = [ColorSession() if value == "session" else value for value in arguments]
    contract = TaskContract()
    if test == "test_masks_are_formed_when_asked_for":  # only the call without masks is wrong
        cut, calls = changes["decode"], []

        def second(found: list[Any]) -> list[Any]:
            calls.append(found)
            return cut(found) if len(calls) == 2 else found

        changes = {"decode": second}
    with pytest.raises((AssertionError, IndexError, KeyError, ValueError)):
        getattr(contract, test)(Wrong(registry.tasks.load("segment"), changes), *given)
    getattr(contract, test)(registry.tasks.load("segment"), *given)


# A runtime that is wrong in one way fails the test that is about it


class Runtime:
    """A runtime in NumPy, right in everything."""

    def __init__(self, **wrong: Any) -> None:
        self.wrong = wrong

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        if artifact.path.read_bytes() != b"whole":
            raise ModelError(f"{artifact.path} is damaged")
        return ArtifactInfo(names=NAMES, imgsz=(64, 96), variant="tiny")

    def open(self, artifact: Artifact, options: Any) -> Any:
        session = ColorSession(self.read_info(artifact))

        def changed(images: Any) -> Any:
            if images.shape != (1, 3, 64, 96) and not self.wrong.get("lenient"):
                raise ModelError(f"images of shape {images.shape}")
            outputs = [images * 2, images.mean((1, 2, 3))]
            return self.wrong["run"](images, outputs) if "run" in self.wrong else tuple(outputs)

        session.run = changed  # type: ignore[method-assign]
        return session


def _scribbles(images: Any, outputs: list[Any]) -> tuple[Any, ...]:
    images[:] = 0
    return tuple(outputs)


_BUFFER = np.zeros((1, 3, 64, 96), np.float32)


def _reuses(_images: Any, outputs: list[Any]) -> tuple[Any, ...]:
    _BUFFER[:] = outputs[0]
    return _BUFFER, outputs[1]


RUNTIMES = [
    ("test_runs", {"run": lambda _, o: o[:1]}, ()),
    ("test_runs", {"run": lambda _, o: (o[0] * np.nan, o[1])}, ()),
    ("test_runs", {"run": lambda _, o: (o[0].astype(int), o[1])}, ()),
    ("test_runs", {"run": _scribbles}, ()),
    ("test_outputs_depend_on_the_images_alone", {"run": _reuses}, ()),
    ("test_outputs_depend_on_the_images_alone", {"run": lambda _, o: (o[0] * 0, o[1] * 0)}, ()),
    (
        "test_takes_images_however_they_lie_in_memory",
        {"run": lambda i, o: (i.ravel(order="K").reshape(i.shape), o[1])},
        (),
    ),
    ("test_refuses_another_size_where_it_is_fixed", {"lenient": True}, ()),
]


@pytest.mark.parametrize(("test", "wrong", "arguments"), RUNTIMES)
def test_a_wrong_runtime_is_found_out(
    test: str, wrong: dict[str, Any], arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    (tmp_path / "m.x").write_bytes(b"whole")
    artifact = Artifact(path=tmp_path / "m.x", format="x")
    contract = BackendContract()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(contract, test)(Runtime(**wrong).open(artifact, None), *arguments)
    getattr(contract, test)(Runtime().open(artifact, None), *arguments)


def test_outputs_are_compared_by_place_and_size() -> None:
    wanted = [np.ones((1, 4, 8), np.float32) * 100]
    other = [wanted[0].copy()]
    other[0][0, 2, 3] += 1
    assert_same_outputs(wanted, wanted, names=["output0"])
    with pytest.raises(AssertionError, match=r"output0\[0, 2, 3\] differs by 1.0"):
        assert_same_outputs(other, wanted, names=["output0"])
    assert_same_outputs(other, wanted, names=["output0"], precision="fp16")
    with pytest.raises(AssertionError, match="has shape"):
        assert_same_outputs([wanted[0][:, :2]], wanted, names=["output0"])
    with pytest.raises(AssertionError, match="2 outputs"):
        assert_same_outputs(wanted * 2, wanted, names=["output0"])
