"""What every task keeps: images go in undistorted, results are in image pixels, an empty image has an empty result."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pytest

from segx.errors import UsageError
from segx.options.verbs import DecodeOptions
from segx.plugin.catalog import full_name
from segx.structures.batch import SourceImage
from segx.structures.results import Results
from segx.testing.interpreter import run_fresh
from segx.testing.parity import predict
from segx.testing.plugin import PluginContract, load_or_skip
from segx.testing.scenes import HEAD, ColorSession, draw_scene

if TYPE_CHECKING:
    from segx.plugin.interfaces import Session, Task
    from segx.plugin.registry import Registry
    from segx.plugin.specs import TaskSpec
    from segx.structures.batch import Letterbox

_SHAPES = [(240, 320), (320, 240), (480, 640), (100, 333), (37, 53), (640, 64)]

_WITHOUT_TORCH = """
    import json, sys
    sys.modules["torch"] = None
    from segx.options.verbs import DecodeOptions
    from segx.plugin.registry import get_registry
    from segx.testing.parity import predict
    from segx.testing.scenes import ColorSession, draw_scene
    task = get_registry().tasks.load(sys.argv[1])
    found = predict(task, ColorSession(), [draw_scene()], shape=(320, 320), options=DecodeOptions())
    found[0].plot()
    print(json.dumps([len(results) for results in found]))
"""

_FINDS_AND_DRAWS = """
    from segx.options.verbs import DecodeOptions
    from segx.testing.parity import predict
    from segx.testing.scenes import ColorSession, draw_scene
    task = registry.tasks.load(sys.argv[2])
    found = predict(task, ColorSession(), [draw_scene()], shape=(320, 320), options=DecodeOptions())
    found[0].plot()
"""


class TaskContract(PluginContract, standard=True):
    """Tests of a task, with drawn images and a model in NumPy that sees them.

    A task with heads other than ``yolov8-seg/1`` overrides the fixture ``session`` with a model that finds the red,
    green and blue objects of :func:`segx.testing.scenes.draw_scene`, classes 0, 1 and 2.

    Attributes:
        name: The task's name.
    """

    name: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, registry: Registry) -> TaskSpec:
        """The task's declaration."""
        return registry.tasks.get(f"{cls.name}@{cls.distribution}")

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, registry: Registry, spec: TaskSpec) -> Task:
        """The task, loaded; skips where what it requires is not installed."""
        return cast("Task", load_or_skip(registry, spec))

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, task: Task) -> Session:
        """A model that finds what is drawn."""
        if HEAD not in task.heads:
            pytest.fail(f"override the fixture 'session': no head of {task.heads} is known here")
        return ColorSession()

    @pytest.fixture
    def work(self, spec: TaskSpec, task: Task) -> tuple[str, tuple[str, ...]]:  # noqa: ARG002 - skips
        """Find the objects of an image and draw them."""
        return _FINDS_AND_DRAWS, (full_name(spec),)

    def test_names_itself_and_its_heads(self, spec: TaskSpec, task: Task) -> None:
        """The loaded task has the declared name, and says which raw outputs it decodes, each with a version."""
        assert task.name == spec.name
        assert task.heads
        assert all(head.rpartition("/")[2].isdigit() for head in task.heads)
        assert [head.id for head in spec.heads] == list(task.heads), "declared, so that exports can plan with them"
        forms = [(head.family, head.form) for head in spec.heads]
        assert len(set(forms)) == len(forms), "one head for each form of a family"

    def test_limits_are_what_is_not_refused(self, spec: TaskSpec, task: Task, session: Session) -> None:
        """Of each head; where a graph leaves everything open, nothing changes."""
        for head in spec.heads:
            settled = {"conf": 0.3, "iou": 0.6, "max_det": 20}
            info = session.info.replace(head=head.id, decoding={**head.decoding, **settled} if head.options else {})
            for options in (DecodeOptions(), DecodeOptions(conf=0.5, iou=0.2, max_det=5), DecodeOptions(conf=0.001)):
                nearest = task.limits(info, options)
                task.check(info, nearest)
                assert task.limits(info, nearest) == nearest
                if nearest == options:
                    task.check(info, options)
                    continue
                with pytest.raises(UsageError):
                    task.check(info, options)

    @pytest.mark.parametrize("image", _SHAPES)
    @pytest.mark.parametrize("imgsz", [(320, 320), (320, 416)])
    def test_input_shape_follows_the_stride(self, task: Task, image: tuple[int, int], imgsz: tuple[int, int]) -> None:
        """Square where it is asked, else the smallest multiple of the stride that holds the image."""
        assert task.input_shape(image, imgsz, stride=32, rect=False) == imgsz
        shape = task.input_shape(image, imgsz, stride=32, rect=True)
        assert all(side % 32 == 0 and 0 < side <= limit for side, limit in zip(shape, imgsz, strict=True))
        scale = min(imgsz[0] / image[0], imgsz[1] / image[1])
        assert all(side >= inner * scale - 1 for side, inner in zip(shape, image, strict=True)), "the image fits"
        assert any(side - inner * scale < 32 + 1 for side, inner in zip(shape, image, strict=True)), "and no more"

    @pytest.mark.parametrize("image", _SHAPES)
    def test_image_lies_in_the_input_undistorted(self, task: Task, image: tuple[int, int]) -> None:
        """The geometry that is told is where the image is: all of it, same proportions, the rest is padding."""
        white = SourceImage(image=np.full((*image, 3), 255, np.uint8), path="white.png")
        batch = task.preprocess([white], (320, 416))
        place = batch.geometry[0]
        assert batch.images.shape == (1, 3, 320, 416)
        assert batch.images.dtype == np.float32
        assert batch.images.flags.c_contiguous
        assert (place.original, place.input) == (image, (320, 416))
        assert 0 <= place.left <= place.left + place.width <= 416
        assert 0 <= place.top <= place.top + place.height <= 320
        assert place.width == pytest.approx(image[1] * place.height / image[0], abs=1 + image[1] / image[0])
        seen = (batch.images[0] == 1).all(axis=0)
        assert seen[_slices(place)].all()
        assert seen.sum() == place.width * place.height, "nothing white outside"

    def test_input_is_red_green_blue_from_0_to_1(self, task: Task) -> None:
        """Images are BGR, the network's input is RGB."""
        image = np.zeros((64, 64, 3), np.uint8)
        image[:] = (0, 51, 255)
        images = task.preprocess([SourceImage(image=image, path="a.png")], (64, 64)).images
        np.testing.assert_allclose(images[0, :, 32, 32], [1.0, 0.2, 0.0], atol=1e-6)

    def test_how_input_lies_in_memory_changes_nothing(self, task: Task) -> None:
        """Sessions that take channels last ask for them; a task may ignore that, and says the same numbers."""
        sources = [draw_scene(240, 320).source, draw_scene(64, 64).source]
        plain, last = (task.preprocess(sources, (320, 416), channels_last=asked) for asked in (False, True))
        assert last.images.dtype == np.float32
        assert last.geometry == plain.geometry
        np.testing.assert_array_equal(last.images, plain.images)

    def test_images_of_a_batch_do_not_mix(self, task: Task) -> None:
        """Images of different sizes in one batch are what they are alone, and are not changed."""
        scenes = [draw_scene(240, 320), draw_scene(333, 100), draw_scene(64, 64)]
        before = [scene.image.copy() for scene in scenes]
        together = task.preprocess([scene.source for scene in scenes], (320, 320))
        for index, scene in enumerate(scenes):
            alone = task.preprocess([scene.source], (320, 320))
            np.testing.assert_array_equal(together.images[index], alone.images[0])
            assert together.geometry[index] == alone.geometry[0]
            np.testing.assert_array_equal(scene.image, before[index])

    @pytest.mark.parametrize("image", [(240, 320), (480, 360), (96, 700)])
    @pytest.mark.parametrize("shape", [(320, 320), (320, 416)])
    def test_finds_what_is_there(
        self, task: Task, session: Session, image: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        """Class, box and mask of each object, in pixels of the image, through any resizing and padding."""
        scene = draw_scene(*image)
        results = predict(task, session, [scene], shape=shape, options=DecodeOptions())[0]
        assert issubclass(type(results), Results)
        assert results.orig_shape == image
        assert list(results.boxes.conf) == sorted(results.boxes.conf, reverse=True)
        assert sorted(int(number) for number in results.boxes.cls) == [0, 1, 2]
        scale = max(image[0] / shape[0], image[1] / shape[1], 1)
        for index, category in enumerate(results.boxes.cls.astype(int)):
            drawn = next(item for item in scene.objects if item.category == category)
            np.testing.assert_allclose(results.boxes.xyxy[index], drawn.box, atol=2 * scale)
            mask = results.masks.data[index].astype(bool)
            assert mask.shape == image
            overlap = (mask & drawn.mask).sum() / (mask | drawn.mask).sum()
            assert overlap > 0.85, f"object of class {category}: mask IoU {overlap:.3f}"

    def test_results_keep_their_image(self, task: Task, session: Session) -> None:
        """Results of a batch come in its order, each with its own image, path and the model's names."""
        scenes = [draw_scene(240, 320), draw_scene(333, 200)]
        found = predict(task, session, scenes, shape=(320, 320), options=DecodeOptions())
        assert len(found) == 2
        for results, scene in zip(found, scenes, strict=True):
            assert results.orig_img is scene.image
            assert results.path == "drawn.png"
            assert dict(results.names) == dict(session.info.names)

    def test_nothing_is_an_empty_result(self, task: Task, session: Session) -> None:
        """A grey image gives empty boxes and masks, never None; the image is still drawn and described."""
        scene = draw_scene(240, 320, objects=0)
        results = predict(task, session, [scene], shape=(320, 320), options=DecodeOptions())[0]
        assert len(results) == 0
        assert results.boxes.xyxy.shape == (0, 4)
        assert results.masks is not None
        assert results.masks.data.shape == (0, 240, 320)
        assert results.masks.xy == []
        np.testing.assert_array_equal(results.plot(), scene.image)

    @pytest.mark.parametrize(
        ("options", "classes"),
        [
            ({"conf": 0.88}, {0, 1}),
            ({"conf": 1.0}, set()),
            ({"classes": (2,)}, {2}),
            ({"max_det": 1}, {0}),
        ],
    )
    def test_options_choose_what_is_kept(
        self, task: Task, session: Session, options: dict[str, object], classes: set[int]
    ) -> None:
        """``conf``, ``classes`` and ``max_det``, for a model that scores red over green over blue."""
        results = predict(task, session, [draw_scene()], shape=(320, 320), options=DecodeOptions.parse(options))[0]
        if isinstance(session, ColorSession):
            assert {int(number) for number in results.boxes.cls} == classes
        assert len(results.masks) == len(results.boxes)

    def test_masks_are_formed_when_asked_for(self, task: Task, session: Session) -> None:
        """``masks=False`` gives the same boxes and no masks."""
        with_masks = predict(task, session, [draw_scene()], shape=(320, 320), options=DecodeOptions())[0]
        without = predict(task, session, [draw_scene()], shape=(320, 320), options=DecodeOptions(masks=False))[0]
        assert len(without.masks) == 0
        np.testing.assert_array_equal(without.boxes.data, with_masks.boxes.data)

    def test_parity_with_itself_is_perfect(self, task: Task, session: Session) -> None:
        """No difference, every object matched, whatever their order."""
        found = predict(task, session, [draw_scene(), draw_scene(300, 500)], shape=(320, 320), options=DecodeOptions())
        parity = task.parity(found, [found[0][::-1], found[1]])
        assert (parity.images, parity.objects) == (2, 6)
        assert (parity.matched, parity.mask_iou, parity.quality) == (1, 1, 1)
        assert (parity.box, parity.score) == (0, 0)

    def test_parity_reports_differences(self, task: Task, session: Session) -> None:
        """A lost object, moved boxes, changed scores and smaller masks are each seen."""
        found = predict(task, session, [draw_scene()], shape=(320, 320), options=DecodeOptions())
        fewer = task.parity(found, [found[0][:2]])
        assert fewer.matched < 1
        assert fewer.quality == pytest.approx(2 * 2 / 5), "the masks of two of three, and of two, match"
        assert task.parity([found[0][:2]], found).matched < 1
        moved = found[0].boxes.data.copy()
        moved[0, :4] += 2
        moved[:, 4] -= 0.125
        boxes = type(found[0].boxes)(moved, found[0].orig_shape)
        parity = task.parity(found, [found[0].replace(boxes=boxes)])
        assert parity.matched == 1
        assert parity.box == pytest.approx(2 * found[0].gain[0], rel=0.01)
        assert parity.score == pytest.approx(0.125, abs=1e-6)
        dense = found[0].masks.data.copy()
        rows = np.nonzero(dense[0].any(axis=1))[0]
        dense[0, rows[: len(rows) // 4]] = 0
        masks = type(found[0].masks).from_dense(dense, found[0].orig_shape)
        smaller = task.parity(found, [found[0].replace(masks=masks)])
        assert smaller.mask_iou < 0.95
        assert smaller.mask_iou < smaller.quality < 1

    def test_parity_of_nothing_is_perfect(self, task: Task, session: Session) -> None:
        """Two models that both find nothing agree."""
        found = predict(task, session, [draw_scene(objects=0)], shape=(320, 320), options=DecodeOptions())
        parity = task.parity(found, found)
        assert (parity.objects, parity.matched, parity.mask_iou, parity.box) == (0, 1, 1, 0)

    def test_draws_on_a_copy(self, task: Task, session: Session) -> None:
        """An image of the same size with something in it; the original as it was, unless it is drawn into."""
        scene = draw_scene()
        before = scene.image.copy()
        results = predict(task, session, [scene], shape=(320, 320), options=DecodeOptions())[0]
        drawn = results.plot()
        assert drawn.shape == scene.image.shape
        assert drawn.dtype == np.uint8
        assert (drawn != scene.image).any()
        np.testing.assert_array_equal(scene.image, before)
        assert results.plot(inplace=True) is scene.image
        np.testing.assert_array_equal(scene.image, drawn)

    def test_works_without_torch(self, spec: TaskSpec) -> None:
        """Predicting needs NumPy and OpenCV only."""
        assert run_fresh(_WITHOUT_TORCH, full_name(spec)) == [3]


def _slices(place: Letterbox) -> tuple[slice, slice]:
    return slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
