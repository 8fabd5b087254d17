"""Writes drawn images as a data set: images, COCO JSON and the YAML that names them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml

from segx.io.files import new_folder
from segx.structures import rle
from segx_data_synth.scene import draw_scene
from segx_data_synth.shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from segx_data_synth.scene import Scene

    Row = tuple[str, tuple[int, int], list[dict[str, Any]]]

_SPLITS = ("train", "val")


def write_dataset(
    folder: Path,
    *,
    images: int = 200,
    val_images: int = 40,
    imgsz: int = 320,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Draw a data set and return its YAML.

    Args:
        folder: Where to write; must not exist yet, or be empty. Nothing is in it before everything is.
        images: Images of the training split.
        val_images: Images of the validation split.
        imgsz: Longer side of the images in pixels; the shorter one is between two thirds of it and all of it.
        seed: The same seed draws the same images.
        workers: Processes that draw.
        progress: Hears how many images of how many are drawn.

    Raises:
        DataError: The folder holds something already, or cannot be written.
    """
    folder = folder.absolute()
    with new_folder(folder) as work:
        for split, count in zip(_SPLITS, (images, val_images), strict=True):
            (work / "images" / split).mkdir(parents=True)
            draw = partial(_draw, work / "images" / split, seed, split, imgsz)
            rows = []
            with _mapper(workers) as spread:
                for row in spread(draw, range(count)):
                    rows.append(row)
                    if progress is not None:
                        progress(len(rows) + (images if split == "val" else 0), images + val_images)
            _write_json(work / "annotations" / f"{split}.json", rows, seed)
        _write_yaml(work / f"{folder.name}.yaml")
    return folder / f"{folder.name}.yaml"


def _draw(folder: Path, seed: int, split: str, imgsz: int, index: int) -> Row:
    """Write one image and return what the JSON says of it."""
    scene = image(seed, split, index, imgsz)
    name = f"{split}_{index:05d}.jpg"
    _, data = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    (folder / name).write_bytes(data.tobytes())  # never by OpenCV: a name that is not UTF-8 ends its process
    height, width = scene.image.shape[:2]
    return name, (height, width), _annotations(scene)


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Callable[[int], Row], Iterable[int]], Iterable[Row]]]:
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=8)


def image(seed: int, split: str, index: int, imgsz: int) -> Scene:
    """Return one image of a data set, always the same for the same arguments."""
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    short = int(round(imgsz * rng.uniform(2 / 3, 1) / 2) * 2)
    height, width = (imgsz, short) if rng.random() < 0.3 else (short, imgsz)
    return draw_scene(rng, height=height, width=width)


picture = image  # what it was called before the words were settled; scripts beside the project use it


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    height, width = scene.image.shape[:2]
    rows = []
    for item in scene.objects:
        x, y, w, h = cv2.boundingRect(item.mask.view(np.uint8))
        counts = rle.from_bitmap(item.mask[y : y + h, x : x + w], (x, y), height, width)
        rows.append(
            {
                "category_id": item.category,
                "bbox": [x, y, w, h],
                "area": int(item.mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": rle.compress(counts).decode("ascii")},
            }
        )
    return rows


def _write_json(path: Path, scenes: Sequence[Row], seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [(number, row) for number, (_, _, found) in enumerate(scenes, start=1) for row in found]
    document = {
        "info": {"description": f"drawn by segx-data-synth, seed {seed}"},
        "images": [
            {"id": number, "file_name": name, "height": shape[0], "width": shape[1]}
            for number, (name, shape, _) in enumerate(scenes, start=1)
        ],
        "annotations": [{"id": index, "image_id": number, **row} for index, (number, row) in enumerate(rows, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(SHAPES)],
    }
    path.write_text(json.dumps(document))


def _write_yaml(path: Path) -> None:
    definition = {
        "path": ".",
        **{split: f"annotations/{split}.json" for split in _SPLITS},
        "names": dict(enumerate(SHAPES)),
    }
    path.write_text(yaml.safe_dump(definition, sort_keys=False))
