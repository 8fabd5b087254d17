"""``make demo``: the main job on a picture: predict, export with proof, predict with the exported file.

The commands are printed as they are run, so that they can be typed again. The model is the one that segx ships; until
there is one, or with real material at hand, ``yolov8n-seg.pt`` from SEGX_TEST_DATA, else by download.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from segx.downloads import resolve_weights
from segx.errors import SegxError
from segx.registry import get_registry
from segx_data_synth.dataset import picture as draw

ROOT = Path(__file__).resolve().parent.parent
SEGX = Path(sys.executable).parent / "segx"
SHIPPED, PUBLISHED = "shapes-seg.pt", "yolov8n-seg.pt"


@dataclass(frozen=True)
class Material:
    """What the demonstration works on.

    Attributes:
        model: A checkpoint.
        picture: A picture with objects that it knows.
        origin: Where they come from.
    """

    model: Path
    picture: Path
    origin: str


def find_material(folder: Path) -> Material:
    """Return a model and a picture: real ones if there are, else the shipped model, else a published one."""
    for place in (os.environ.get("SEGX_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "weights" / PUBLISHED).is_file():
            pictures = sorted((Path(place) / "coco-mini" / "images" / "val2017").glob("*.jpg"))
            if pictures:
                return Material(Path(place) / "weights" / PUBLISHED, pictures[0], f"real material in {place}")
    registry = get_registry()
    shipped = registry.weights_file(SHIPPED)
    name = SHIPPED if shipped is not None and shipped.path is not None and shipped.path.is_file() else PUBLISHED
    picture = draw_picture(folder / "drawn.png")
    return Material(resolve_weights(name, registry), picture, f"{name} and a drawn picture")


def draw_picture(path: Path) -> Path:
    """Draw a scene of objects that the shipped model knows."""
    cv2.imwrite(str(path), draw(7, "demo", 0, 640).image)
    return path


def segx(folder: Path, *words: str) -> str:
    """Run one command, showing it, and return what it prints on standard output."""
    print(f"\n$ segx {shlex.join(words)}", flush=True)
    ended = subprocess.run([SEGX, *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)
    return ended.stdout.strip()


def count(folder: Path, model: str, picture: Path) -> int:
    """Return how many objects a model finds, as the JSON document says."""
    line = ["predict", f"model={model}", f"source={picture}", "rect=false", "--no-save", "--json", "--quiet"]
    return len(json.loads(segx(folder, *line))["pictures"][0]["objects"])


def main() -> None:
    """Run the main job and say where everything is."""
    folder = ROOT / "runs" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        material = find_material(folder)
    except SegxError as error:
        sys.exit(f"demo: there is neither real material (SEGX_TEST_DATA) nor a model to be had\n  {error}")
    print(f"demo: {material.origin}")
    exported = material.model.with_suffix(".onnx").name
    where = ["project=.", "exist_ok"]
    drawn = segx(
        folder, "segment", "predict", f"model={material.model}", f"source={material.picture}", *where, "name=pt"
    )
    segx(folder, "export", f"model={material.model}", "format=onnx", f"output={exported}")
    again = segx(folder, "segment", "predict", f"model={exported}", f"source={material.picture}", *where, "name=onnx")
    found = [count(folder, model, material.picture) for model in (str(material.model), exported)]
    print(f"\nobjects found by the .pt and by the .onnx at the same input: {found[0]} and {found[1]}")
    for name, place in (("with the .pt", drawn), ("with the .onnx", again)):
        print(f"picture drawn {name}: {next((folder / place).glob(material.picture.stem + '.*'))}")
    print(f"exported model: {folder / exported}")


if __name__ == "__main__":
    main()
