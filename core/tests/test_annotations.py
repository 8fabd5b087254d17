"""Ground truth as columns: taking objects and images keeps everything that belongs to them."""

from __future__ import annotations

import numpy as np

from segx.structures.annotations import AnnotationTable, starts_of


def make_object(rng: np.random.Generator) -> dict[str, object]:
    return {
        "category": int(rng.integers(9)),
        "crowd": bool(rng.integers(2)),
        "area": float(rng.random()),
        "id": int(rng.integers(1000)),
        "box": rng.random(4),
        "polygons": [rng.random((int(rng.integers(3, 6)), 2)) for _ in range(rng.integers(0, 3))],
        "counts": bytes(rng.integers(48, 90, rng.integers(0, 4)).astype(np.uint8)),
    }


def make(rng: np.random.Generator, images: int) -> tuple[AnnotationTable, list[list[dict[str, object]]]]:
    """A random table, and the same as plain lists."""
    plain: list[list[dict[str, object]]] = [
        [make_object(rng) for _ in range(rng.integers(0, 4))] for _ in range(images)
    ]
    objects = [item for image in plain for item in image]
    rings = [ring for item in objects for ring in item["polygons"]]  # type: ignore[attr-defined]
    table = AnnotationTable(
        offsets=starts_of([len(image) for image in plain]),
        category=np.array([item["category"] for item in objects], np.int32),
        crowd=np.array([item["crowd"] for item in objects], np.bool_),
        area=np.array([item["area"] for item in objects], np.float64),
        id=np.array([item["id"] for item in objects], np.int64),
        box=np.array([item["box"] for item in objects], np.float64).reshape(-1, 4),
        parts=starts_of([len(item["polygons"]) for item in objects]),  # type: ignore[arg-type]
        points=starts_of([len(ring) for ring in rings]),
        xy=np.concatenate([np.zeros((0, 2)), *rings]),
        runs=starts_of([len(item["counts"]) for item in objects]),  # type: ignore[arg-type]
        counts=np.frombuffer(b"".join(item["counts"] for item in objects), np.uint8),  # type: ignore[misc]
    )
    return table, plain


def check(table: AnnotationTable, plain: list[list[dict[str, object]]]) -> None:
    assert len(table.offsets) - 1 == len(plain)
    for image, expected in enumerate(plain):
        annotations = table.annotations(image, (7, 8))
        assert len(annotations) == len(expected)
        for annotation, item in zip(annotations, expected, strict=True):
            assert (annotation.category, annotation.crowd, annotation.area, annotation.id) == tuple(
                item[name] for name in ("category", "crowd", "area", "id")
            )
            assert annotation.box == tuple(item["box"])  # type: ignore[arg-type]
            assert [ring.tolist() for ring in annotation.polygons] == [ring.tolist() for ring in item["polygons"]]  # type: ignore[attr-defined]
            assert annotation.rle == ({"size": [7, 8], "counts": item["counts"]} if item["counts"] else None)
            assert annotation.has_mask == bool(item["polygons"] or item["counts"])


def test_taking_images_and_objects() -> None:
    rng = np.random.default_rng(0)
    for images in (0, 1, 7):
        table, plain = make(rng, images)
        check(table, plain)
        check(AnnotationTable.from_columns(table.columns()), plain)
        order = rng.permutation(images)[: images // 2 + 1]
        check(table.keep_images(order), [plain[i] for i in order.tolist()])
        keep = rng.random(len(table)) < 0.5
        flags = iter(keep.tolist())
        check(table.keep_objects(keep), [[item for item in image if next(flags)] for image in plain])
        assert table.with_mask().tolist() == [
            bool(item["polygons"] or item["counts"]) for image in plain for item in image
        ]
        other, more = make(rng, 3)
        check(AnnotationTable.joined([table, other, table]), [*plain, *more, *plain])


def test_fractions_become_pixels() -> None:
    table, _ = make(np.random.default_rng(1), 4)
    relative = AnnotationTable.from_columns({**table.columns(), "relative": np.array(True)})
    image = int(np.flatnonzero(np.diff(table.offsets))[0])
    (whole, *_), (part, *_) = relative.annotations(image, (10, 100)), table.annotations(image, (10, 100))
    np.testing.assert_allclose(whole.box, np.array(part.box) * (100, 10, 100, 10))
    for one, other in zip(whole.polygons, part.polygons, strict=True):
        np.testing.assert_allclose(one, other * (100, 10))
