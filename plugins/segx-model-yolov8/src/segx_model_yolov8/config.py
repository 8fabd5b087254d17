"""Model YAML: where it is found, which scale and how many classes it is read at."""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from segx.errors import ModelError, did_you_mean
from segx.io.files import read_mapping
from segx.io.yaml_text import load
from segx.plugin.jobs import ModelConfig
from segx_model_yolov8 import blocks
from segx_model_yolov8.blocks import IMAGE_CHANNELS, MAX_CHANNELS, Row, Scale, is_positive, is_whole, show

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

ARCHITECTURE: Final = "yolov8-seg"
SHIPPED: Final = ("yolov8p-seg", "yolov8n-seg", "yolov8s-seg", "yolov8m-seg", "yolov8l-seg", "yolov8x-seg")
SHIPPED_FILE: Final = "yolov8-seg.yaml"
SUFFIXES: Final = (".yaml", ".yml")
ACTIVATIONS: Final = ("SiLU", "ReLU", "ReLU6", "LeakyReLU", "Hardswish", "GELU", "Mish")

_NAME = re.compile(r"(?P<family>yolo[a-z]*\d+)(?P<scale>[a-z])?(?![a-z\d])", re.IGNORECASE)
_ACTIVATION = re.compile(r"(?:torch\.)?(?:nn\.)?(?P<name>\w+)(?:\(\))?")


def read_config(source: str | Path, *, nc: int | None = None) -> ModelConfig:
    """Return the configuration of a shipped variant or of a YAML file; a file wins over a shipped name.

    ``my-yolov8m-seg.yaml`` is read at scale m; where there is no such file, ``my-yolov8-seg.yaml`` is.

    Raises:
        ModelError: There is no such file or variant, or a row of it is wrong.
    """
    source = Path(source)
    variant = source.stem if source.suffix in SUFFIXES else source.name
    path = _find(source)
    if path is None:
        content, where = load((files(__package__) / "models" / SHIPPED_FILE).read_text("utf-8")), f"{variant}.yaml"
    else:
        hint = "a model's YAML has the keys nc, scales, backbone, head"
        content, where = read_mapping(path, error=ModelError, what="a model", hint=hint), str(path)
    return make_config(content, variant=variant, nc=nc, where=where)


def make_config(definition: Mapping[str, Any], *, variant: str, nc: int | None = None, where: str = "") -> ModelConfig:
    """Return the configuration that a YAML's content describes, checked.

    Args:
        definition: ``nc``, ``scales`` (or the older ``depth_multiple`` and ``width_multiple``), ``backbone``,
            ``head``; optionally ``scale`` and ``activation``. Other keys are not looked at.
        variant: A name; where the definition has no ``scale``, it is the letter after the family's number: m in
            ``yolov8m-seg``.
        nc: Number of classes; wins over the definition's.
        where: The file, for errors; default: the variant.

    Raises:
        ModelError: Something is missing or wrong; the error names the file and the row.
    """
    where = where or variant
    classes: Any = definition.get("nc") if nc is None else nc
    if not is_whole(classes) or classes > MAX_CHANNELS:
        raise ModelError(f"{where}: nc is {show(classes)}, not a number of classes", hint="write: nc: 80")
    if definition.get("ch", IMAGE_CHANNELS) != IMAGE_CHANNELS:
        raise ModelError(f"{where}: ch is {show(definition['ch'])}, but images have {IMAGE_CHANNELS} channels")
    scales = _read_scales(definition, where)
    scale = _choose_scale(scales, definition, variant, where)
    checked = {
        "nc": classes,
        "scale": scale,
        "scales": {name: list(values) for name, values in scales.items()},
        "backbone": definition.get("backbone"),
        "head": definition.get("head"),
    }
    if definition.get("activation") is not None:
        checked["activation"] = _read_activation(definition["activation"], where)
    blocks.read_rows(checked, scale=Scale(*scales[scale]), nc=classes, where=where)
    variant = _NAME.sub(rf"\g<family>{scale}", variant) if len(scale) == 1 else variant
    return ModelConfig(architecture=ARCHITECTURE, variant=variant, scale=scale, nc=classes, definition=checked)


def config_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Return the rows of a configuration."""
    scale = Scale(*config.definition["scales"][config.scale])
    return blocks.read_rows(config.definition, scale=scale, nc=config.nc, where=config.variant)


def is_segmentation_definition(definition: Mapping[str, Any]) -> bool:
    """Return True if a YAML's content has this family's shape: backbone, head, and a Segment row at the end."""
    try:
        return isinstance(definition["backbone"], list) and definition["head"][-1][2] == blocks.HEAD
    except (KeyError, IndexError, TypeError):
        return False


def _find(source: Path) -> Path | None:
    """Return the file meant, or None for a shipped variant."""
    several_scales = source.with_name(_NAME.sub(r"\g<family>", source.name)) if source.name else source
    for candidate in (source, several_scales):
        if candidate.suffix in SUFFIXES and candidate.is_file():
            return candidate
    name = source.stem if source.suffix in SUFFIXES else source.name
    if source.name == str(source) and name in {*SHIPPED, ARCHITECTURE}:
        return None
    hint = f"shipped: {', '.join(f'{variant}.yaml' for variant in SHIPPED)}"
    if source.exists():
        raise ModelError(f"{source}: is not a model YAML", hint=hint)
    raise ModelError(f"{source}: no such file{did_you_mean(name, SHIPPED)}", hint=hint)


def _read_scales(definition: Mapping[str, Any], where: str) -> dict[str, tuple[float, float, float]]:
    scales = definition.get("scales")
    if scales is None and {"depth_multiple", "width_multiple"} <= definition.keys():
        scales = {"n": [definition["depth_multiple"], definition["width_multiple"], MAX_CHANNELS]}
    hint = "write: scales: {n: [0.33, 0.25, 1024]}  (depth, width, most channels)"
    if not isinstance(scales, dict) or not scales:
        raise ModelError(f"{where}: 'scales' is missing or empty", hint=hint)
    for name, values in scales.items():
        triple = isinstance(values, list | tuple) and len(values) == 3 and all(is_positive(value) for value in values)
        if not isinstance(name, str) or not name or not triple:
            raise ModelError(f"{where}: scale {show(name)} is {show(values)}, not three positive numbers", hint=hint)
    return {name: (float(depth), float(width), float(most)) for name, (depth, width, most) in scales.items()}


def _choose_scale(scales: Mapping[str, Any], definition: Mapping[str, Any], variant: str, where: str) -> str:
    """Return the scale that is asked for: by ``scale``, by the name, by the name it had when it was trained."""
    wanted = definition.get("scale")
    if wanted is not None and (not isinstance(wanted, str) or wanted not in scales):
        raise ModelError(f"{where}: scale {show(wanted)} is not one of its scales: {', '.join(scales)}")
    if wanted is not None or len(scales) == 1:
        return wanted or next(iter(scales))
    named = _scale_in(variant) or _scale_in(str(definition.get("yaml_file", "")))
    if named and named not in scales:
        raise ModelError(f"{where}: its name asks for scale {named!r}, its scales are {', '.join(scales)}")
    if named:
        return named
    fallback = "n" if "n" in scales else next(iter(scales))
    say = f"name it yolov8{fallback}-... or write 'scale: {fallback}' in it to choose"
    logger.warning("%s: taking scale %r of %s; %s", where, fallback, ", ".join(scales), say)
    return fallback


def _scale_in(name: str) -> str:
    match = _NAME.search(name)
    return (match["scale"] or "").lower() if match else ""


def _read_activation(value: Any, where: str) -> str:
    match = _ACTIVATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match["name"] not in ACTIVATIONS:
        raise ModelError(f"{where}: activation {show(value)} is not known", hint=f"known: {', '.join(ACTIVATIONS)}")
    return match["name"]
