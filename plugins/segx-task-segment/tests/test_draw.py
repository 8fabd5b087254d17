"""Drawing stays where the objects are, fits any image, and takes every style it names."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from segx.errors import UsageError
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment.draw import smooth_outlines
from segx_task_segment.palette import color, text_color
from segx_task_segment.results import SegmentResults as Results


def disc_results(shape: tuple[int, int] = (200, 300), *, names: dict[int, str] | None = None) -> Results:
    height, width = shape
    y, x = np.mgrid[:height, :width]
    radius = min(shape) / 4
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    box = [width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius, 0.9, 3]
    return Results(
        orig_img=np.full((*shape, 3), 60, np.uint8),
        path="disc.png",
        names=names or {3: "disc"},
        boxes=Boxes(np.array([box], np.float32), shape),
        masks=Masks.from_dense(disc[None]),
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 30), (200, 300), (1500, 2000)])
@pytest.mark.parametrize("names", [{3: "disc"}, {3: ""}, {3: "a very long name of a thing " * 20}, {}, {3: "чаша"}])
def test_any_image_and_any_name(shape: tuple[int, int], names: dict[int, str]) -> None:
    drawn = disc_results(shape, names=names).plot()
    assert drawn.shape == (*shape, 3)
    assert drawn.dtype == np.uint8


def test_another_image_is_drawn_on_whatever_it_is_made_of() -> None:
    results = disc_results()
    grey = np.full((200, 300), 60, np.uint8)
    for img in (grey, grey[..., None], grey.astype(np.uint16) * 257, grey.astype(np.float32), grey / 255):
        np.testing.assert_array_equal(results.plot(img=img), results.plot())
    assert (grey == 60).all()
    with pytest.raises(UsageError, match="img is 300x100 pixels"):
        results.plot(img=grey[:100])
    with pytest.raises(UsageError, match="is not an image"):
        results.plot(img=np.zeros((200, 300, 7), np.uint8))


def test_fill_is_inside_the_mask_only() -> None:
    results = disc_results()
    drawn = results.plot(labels=False, boxes=False, opacity=0.5)
    inside = cv2.erode(results.masks.data[0], np.ones((9, 9), np.uint8)).astype(bool)
    outside = ~cv2.dilate(results.masks.data[0], np.ones((9, 9), np.uint8)).astype(bool)
    expected = np.round(60 * 0.5 + np.array(color(3)) * 0.5)
    np.testing.assert_allclose(drawn[inside], np.broadcast_to(expected, (inside.sum(), 3)), atol=1)
    assert (drawn[outside] == 60).all()


def test_outline_follows_the_edge() -> None:
    """The smoothed outline of a disc is a circle to a third of a pixel."""
    results = disc_results((400, 400))
    (ring,) = smooth_outlines(results.masks, 0, 2)
    radius = np.hypot(*(ring - 200).T)
    assert np.abs(radius - 99.3).max() < 0.7
    assert radius.std() < 0.33


def test_holes_are_outlined() -> None:
    ring = np.zeros((60, 60), np.uint8)
    ring[10:50, 10:50] = 1
    ring[25:35, 25:35] = 0
    assert len(smooth_outlines(Masks.from_dense(ring[None]), 0, 2)) == 2


def test_masks_of_the_network_input_are_drawn_in_the_image() -> None:
    """``retina_masks=False``: the same object in the same place, padding taken off."""
    fine = disc_results((200, 300))
    coarse = np.zeros((1, 320, 320), np.uint8)
    inner = cv2.resize(fine.masks.data[0], (320, 213), interpolation=cv2.INTER_AREA)
    coarse[0, 53:266] = inner
    masks = Masks.from_dense(coarse, (200, 300))
    masks = Masks(
        frame=masks.frame, rects=masks.rects, words=masks.words, orig_shape=(200, 300), image=(0, 53, 320, 213)
    )
    style = {"labels": False, "boxes": False}
    difference = np.abs(fine.replace(masks=masks).plot(**style).astype(int) - fine.plot(**style)).max(axis=2) > 60
    assert difference.mean() < 0.02


def test_styles() -> None:
    results = disc_results()
    plain = results.plot()
    changed = [
        results.plot(**style)
        for style in (
            {"conf": False}, {"labels": False}, {"boxes": False}, {"masks": False}, {"line_width": 9},
            {"font_size": 40}, {"color_mode": "instance"}, {"opacity": 0.9},
        )
    ]  # fmt: skip
    for one, other in combinations([plain, *changed], 2):
        assert (one != other).any()
    black = np.zeros_like(results.orig_img)
    assert (results.plot(img=black)[:5] == 0).all()
    assert (black == 0).all()
    with pytest.raises(TypeError, match=r"plot\(\) got an unexpected keyword"):
        results.plot(thickness=3)


def test_labels_do_not_cover_one_another() -> None:
    """Twelve objects in one place: every label finds room of its own."""
    from segx_task_segment.draw import Labels

    labels = Labels(np.zeros((480, 640, 3), np.uint8), size=12, font=None)
    boxes = [
        np.array([100 + 90 * (i % 4), 100 + 60 * (i // 4), 180 + 90 * (i % 4), 150 + 60 * (i // 4)], np.float32)
        for i in range(12)
    ]
    for i, box in enumerate(boxes):
        labels.place(f"object {i}", box, color(i), gap=1)
    for one, other in combinations([chip.rect for chip in labels.chips], 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart


@pytest.mark.parametrize("corner", [(0, 0), (600, 0), (0, 460), (600, 460)])
def test_labels_stay_in_the_image(corner: tuple[int, int]) -> None:
    from segx_task_segment.draw import Labels

    labels = Labels(np.zeros((480, 640, 3), np.uint8), size=14, font=None)
    labels.place("refrigerator 0.99", np.array([*corner, corner[0] + 40, corner[1] + 20], np.float32), (1, 2, 3), gap=2)
    x0, y0, x1, y1 = labels.chips[0].rect
    assert 0 <= x0 < x1 <= 640
    assert 0 <= y0 < y1 <= 480


def test_colors_are_stable_and_distinct() -> None:
    assert color(0) == color(0)
    assert len({color(i) for i in range(80)}) == 80
    lab = cv2.cvtColor(np.array([[color(i) for i in range(12)]], np.uint8), cv2.COLOR_BGR2Lab)[0].astype(int)
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(lab, 2))
    assert nearest > 20, "the first dozen are easy to tell apart"


def test_text_is_readable_on_every_color() -> None:
    """Contrast of text on its chip is at least 3 : 1 (WCAG, large text)."""

    def luminance(bgr: tuple[int, int, int]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in bgr)]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    for i in range(200):
        light, dark = sorted((luminance(color(i)), luminance(text_color(color(i)))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, i


def test_the_outline_of_a_very_large_mask_follows_every_second_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = np.zeros((1, 400, 400), bool)
    y, x = np.ogrid[:400, :400]
    disk[0] = (y - 200) ** 2 + (x - 200) ** 2 <= 150**2
    (all_of_it,) = smooth_outlines(Masks.from_dense(disk), 0, 20)
    monkeypatch.setattr("segx_task_segment.draw._LARGEST", 100 * 100)
    (half_of_it,) = smooth_outlines(Masks.from_dense(disk), 0, 20)
    assert len(half_of_it) <= len(all_of_it)
    radii = [np.hypot(*(ring - 200).T) for ring in (all_of_it, half_of_it)]
    assert abs(radii[0].mean() - radii[1].mean()) < 1
    assert np.abs(radii[1] - radii[0].mean()).max() < 2
