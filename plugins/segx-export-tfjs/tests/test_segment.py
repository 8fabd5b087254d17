"""What the page computes, run by Node.js, beside what segx computes of the same numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segx.options.verbs import DecodeOptions
from segx.structures.batch import boxes_to_image, letterbox, place
from segx_task_segment.decode import detect
from segx_task_segment.mask_assembly import image_masks
from segx_task_segment.palette import color

PAGE = Path(__file__).parents[1] / "src" / "segx_export_tfjs" / "page"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="the page's functions are run by Node.js, and there is no node")

RUN = """
import fs from "fs";
const { place, letterbox, detect, boxToImage, mask, color } = await import(process.argv[2]);
const folder = process.argv[3];
const read = (name, kind) => {
  const bytes = fs.readFileSync(`${folder}/${name}`);
  return new kind(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
const asked = JSON.parse(fs.readFileSync(`${folder}/asked.json`, "utf8"));
const answer = {};
if (asked.places) answer.places = asked.places.map(([image, input]) => place(image, input));
if (asked.colors) answer.colors = Array.from({ length: asked.colors }, (_, i) => color(i));
if (asked.image) {
  const out = letterbox(read("image.bin", Uint8Array), place(asked.image, asked.input));
  fs.writeFileSync(`${folder}/input.bin`, Buffer.from(out.buffer));
}
if (asked.detect) {
  const { anchors, classes, coefficients, settings, size } = asked.detect;
  const geometry = place(asked.original, asked.input);
  const prototypes = read("prototypes.bin", Float32Array);
  const found = detect(read("predictions.bin", Float32Array), anchors, classes, coefficients, settings);
  const masks = [];
  answer.found = found.map((one) => {
    const box = boxToImage(one.box, geometry);
    const made = mask(prototypes, size, one.coefficients, box, geometry);
    masks.push(Buffer.from(made.bits));
    return { category: one.category, score: one.score, box, rect: made.rect };
  });
  fs.writeFileSync(`${folder}/masks.bin`, Buffer.concat(masks));
}
console.log(JSON.stringify(answer));
"""


def ask(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    (folder / "run.mjs").write_text(RUN, encoding="utf-8")
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    module = folder / "segment.mjs"  # Node.js goes by the suffix
    shutil.copyfile(PAGE / "segment.js", module)
    words = [str(NODE), str(folder / "run.mjs"), str(module), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_images_are_placed_alike(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    cases = [[chance.integers(1, 3000, 2).tolist(), [640, 640]] for _ in range(300)]
    cases += [[chance.integers(1, 900, 2).tolist(), [384, 512]] for _ in range(100)]
    for made, (image, shape) in zip(ask(tmp_path, {"places": cases})["places"], cases, strict=True):
        wanted = place(tuple(image), tuple(shape))
        for name in ("left", "top", "width", "height"):
            assert made[name] == getattr(wanted, name), (image, shape, name)


@pytest.mark.parametrize("size", [(48, 80), (200, 130), (37, 300)])
def test_input_is_alike(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    rgba = np.concatenate([image[..., ::-1], np.full((*size, 1), 255, np.uint8)], axis=2)
    (tmp_path / "image.bin").write_bytes(np.ascontiguousarray(rgba).tobytes())
    ask(tmp_path, {"image": size, "input": [96, 128]})
    made = np.fromfile(tmp_path / "input.bin", np.float32).reshape(96, 128, 3).transpose(2, 0, 1)
    wanted = letterbox([image], (96, 128))[0][0]
    assert np.abs(made - wanted).max() <= 1.01 / 255  # OpenCV interpolates with 11 bits
    assert np.abs(made - wanted).mean() < 0.15 / 255


@pytest.mark.parametrize("original", [(480, 640), (333, 200), (60, 90)])
def test_objects_and_masks_are_alike(tmp_path: Path, original: tuple[int, int]) -> None:
    chance = np.random.default_rng(2)
    height, width, classes, count, anchors = 128, 160, 5, 8, 420
    predictions = np.empty((4 + classes + count, anchors), np.float32)
    predictions[0] = chance.uniform(0, width, anchors)
    predictions[1] = chance.uniform(0, height, anchors)
    predictions[2:4] = chance.uniform(4, 70, (2, anchors))
    predictions[4 : 4 + classes] = chance.uniform(0, 1, (classes, anchors)) ** 3
    predictions[4 + classes :] = chance.normal(size=(count, anchors))
    predictions[0, 7] = np.nan
    prototypes = chance.normal(size=(count, height // 4, width // 4)).astype(np.float32)
    (tmp_path / "predictions.bin").write_bytes(predictions.tobytes())
    (tmp_path / "prototypes.bin").write_bytes(np.ascontiguousarray(prototypes.transpose(1, 2, 0)).tobytes())
    asked = {
        "anchors": anchors,
        "classes": classes,
        "coefficients": count,
        "settings": {"conf": 0.3, "iou": 0.45, "most": 60},
        "size": [height // 4, width // 4],
    }
    answer = ask(tmp_path, {"detect": asked, "original": original, "input": [height, width]})["found"]
    found = detect(predictions, classes, DecodeOptions(conf=0.3, iou=0.45, max_det=60))
    assert len(found.scores) > 20
    assert [one["category"] for one in answer] == found.classes.tolist()
    np.testing.assert_allclose([one["score"] for one in answer], found.scores, rtol=1e-6)
    geometry = place(original, (height, width))
    boxes = boxes_to_image(found.boxes, geometry)
    np.testing.assert_allclose([one["box"] for one in answer], boxes, atol=1e-3)
    wanted = np.asarray(image_masks(prototypes, found.coefficients, boxes, geometry).data, dtype=bool)
    bits, start = np.fromfile(tmp_path / "masks.bin", np.uint8), 0
    for one, mask in zip(answer, wanted, strict=True):
        x0, y0, x1, y1 = one["rect"]
        made = np.zeros(original, bool)
        made[y0:y1, x0:x1] = bits[start : start + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
        start += (y1 - y0) * (x1 - x0)
        shared, union = (made & mask).sum(), (made | mask).sum()
        assert union == 0 or shared / union > 0.98
    assert start == bits.size


def test_colours_are_alike(tmp_path: Path) -> None:
    for number, made in enumerate(ask(tmp_path, {"colors": 90})["colors"]):
        blue, green, red = color(number)
        assert made == [red, green, blue], number
