"""Tiny models: a few layers with the real head, a YAML of the real schema, and both as files of any format."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.artifact import Artifact, ArtifactInfo
from segx.io import sidecar
from segx.plugin.calibration import Calibration
from segx.plugin.catalog import full_name
from segx.plugin.jobs import ExportJob, ExportModule
from segx.plugin.registry import get_registry
from segx.testing.scenes import HEAD, NAMES, noise_images

if TYPE_CHECKING:
    from segx.options.verbs import ExportOptions
    from segx.plugin.interfaces import Exporter
    from segx.plugin.specs import ExporterSpec

TINY_YOLOV8 = """\
nc: 3
scales: # depth, width, most channels
  n: [0.33, 0.125, 128]
backbone:
  - [-1, 1, Conv, [64, 3, 2]] # 0, stride 2
  - [-1, 1, Conv, [64, 3, 2]] # 1, stride 4
  - [-1, 1, Conv, [64, 3, 2]] # 2, stride 8
  - [-1, 3, C2f, [64, true]] # 3
  - [-1, 1, Conv, [128, 3, 2]] # 4, stride 16
  - [-1, 1, Conv, [128, 3, 2]] # 5, stride 32
  - [-1, 1, SPPF, [128, 5]] # 6
head:
  - [-1, 1, Upsample, [null, 2, nearest]] # 7
  - [[-1, 4], 1, Concat, [1]] # 8
  - [-1, 3, C2f, [64]] # 9
  - [[3, 9, 6], 1, Segment, [nc, 32, 64]] # 10
"""
"""A YOLOv8-seg model of the user's own, small enough for tests: the blocks and three strides of the real ones."""

RAW_HEAD = "yolov8-seg-raw/1"
RAW_OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
_BINS = 16
CALIBRATED_ON = 8
"""Drawn images that a quantised format is calibrated on in tests."""

_ORIGINS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""Modules that were made here, whose weights and info say all that they are."""
_WRITTEN: dict[str, tuple[Exporter, tempfile.TemporaryDirectory[str], ArtifactInfo]] = {}
"""What tells a file apart from all others, to who wrote it, a copy of it, and its info.

Tests of several distributions ask for the same tiny files, and a converter takes ten seconds for one. Nothing is taken
from here that another exporter, other options or another model would have written.
"""

OUTPUT_AXES = ({0: "batch", 2: "anchors"}, {0: "batch", 2: "mask_height", 3: "mask_width"})


def tiny_info(*, imgsz: tuple[int, int] = (64, 96), batch: int = 1, dynamic: bool = False) -> ArtifactInfo:
    """Return what is known of the tiny model."""
    return ArtifactInfo(
        head=HEAD,
        variant="tiny-seg",
        names=NAMES,
        imgsz=imgsz,
        batch=batch,
        dynamic=frozenset({"batch", "height", "width"}) if dynamic else frozenset(),
        settings={"data": "drawn.yaml"},
        versions={"segx-core": "0.0.0"},
        date="2026-01-02T03:04:05+00:00",
        extra={"author": "somebody's"},
    )


def tiny_module(info: ArtifactInfo) -> ExportModule:
    """Return a convolutional model of five layers with the outputs of ``info.head``; needs torch.

    Its weights are the same in every process; boxes are positive, scores in 0..1. Of heads it knows ``yolov8-seg/1``
    and ``yolov8-seg-raw/1`` (one level of stride 32).
    """
    import torch
    from torch import nn

    raw = info.head == RAW_HEAD
    sides = 4 * _BINS if raw else 4

    class Tiny(nn.Module):
        """Five layers that end in the real head's outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.SiLU())
            self.protos = nn.Conv2d(16, 32, 1)
            self.rows = nn.Conv2d(16, sides + len(NAMES) + 32, 3, 8, 1)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            features = self.stem(images)
            boxes, scores, coefficients = self.rows(features).flatten(2).split((sides, len(NAMES), 32), dim=1)
            if raw:
                return boxes, scores.sigmoid(), coefficients, self.protos(features)
            return torch.cat((boxes.exp() * 16, scores.sigmoid(), coefficients), dim=1), self.protos(features)

    module = Tiny().eval()
    generator = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = generator.normal(0, 0.3, tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(drawn))
            parameter.requires_grad_(False)
    _ORIGINS[module] = "tiny"
    example = noise_images((info.batch, 3, *info.imgsz))
    if not raw:
        return ExportModule(module=module, example=example, info=info, output_axes=OUTPUT_AXES)
    info = info.replace(outputs=RAW_OUTPUTS, decoding={"strides": [32], "bins": _BINS})
    axes = (*[OUTPUT_AXES[0]] * 3, OUTPUT_AXES[1])
    return ExportModule(module=module, example=example, info=info, output_axes=axes)


def real_module(info: ArtifactInfo) -> ExportModule:
    """Return :data:`TINY_YOLOV8` as the installed architecture builds and wraps it; needs torch.

    Raises:
        SegxError: No architecture for it is installed.
    """
    import torch
    import yaml

    definition = yaml.safe_load(TINY_YOLOV8)
    architecture = get_registry().architecture_for(definition)
    config = architecture.config_from_definition(definition, variant="tinyn-seg")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = architecture.build(config).eval()
    known = architecture.info(config, NAMES)
    wanted = info.replace(variant=known.variant, stride=known.stride)
    if info.head == HEAD:
        wanted = wanted.replace(head=known.head, outputs=known.outputs)
    made = architecture.export_module(module, wanted)
    _ORIGINS[made.module] = "real"
    return made


def run_module(module: ExportModule, images: Any) -> tuple[Any, ...]:
    """Return the outputs of the source model, float32 arrays, for float32 (N, 3, H, W)."""
    import torch

    with torch.inference_mode():
        outputs = module.module(torch.from_numpy(np.ascontiguousarray(images)))
    return tuple(output.numpy() for output in outputs)


def export_options(spec: ExporterSpec, **wanted: Any) -> ExportOptions:
    """Return a format's options with what it knows of those wanted, in the precision that an export then means."""
    from segx.flows.export import chosen_options

    known = spec.options.names()
    return chosen_options((spec,), {name: value for name, value in wanted.items() if name in known})


def wanted_info(spec: ExporterSpec, info: ArtifactInfo, **options: Any) -> ArtifactInfo:
    """Return the info of a model as an export with these options wants it.

    It has their precision, the head they want, and of the axes that are open those that all formats on the way have.
    """
    from segx.flows.export import settled

    registry = get_registry()
    chosen = export_options(spec, **options)
    chain = registry.export_chain(full_name(spec))
    dynamic = info.dynamic.intersection(*(link.axes for link in chain))
    info = info.replace(precision=chosen.precision, dynamic=dynamic)
    forms = [link.demands(own).form for link, own in zip(chain, settled(chain, chosen), strict=True)]
    form = next((form for form in reversed(forms) if form != "decoded"), "decoded")
    head = registry.tasks.get(info.task).head_in(form, info.head)
    return info if form == "decoded" or head is None else head.describe(info)


def export_with(
    exporter: Exporter, source: ExportModule | Artifact, info: ArtifactInfo, options: ExportOptions, destination: Path
) -> ArtifactInfo:
    """Have one exporter do its work, as core does, and return the info that it gives back.

    What is calibrated is calibrated on drawn images.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images = Calibration((), count=CALIBRATED_ON, task=info.task, shape=info.imgsz, batch=info.batch)
        job = ExportJob(
            info=info,
            options=options,
            destination=destination,
            scratch=Path(scratch),
            images=images if getattr(options, "int8", False) else None,
        )
        return exporter.export(source, job)


def export_file(kind: str, folder: Path, module: ExportModule, **options: Any) -> tuple[Artifact, ArtifactInfo]:
    """Write a model as a file of a format, through all formats in between, with its info as core carries it.

    The files of :func:`tiny_module` and :func:`real_module` are written once in a process, and copied after that.

    Args:
        kind: The format, bare or ``name@distribution``.
        folder: Where to write.
        module: The model, of the head that the options want: see :func:`wanted_info`.
        **options: Options of the format; those in between get what an export gives them.

    Returns:
        The artefact, and the info that was to travel with it.
    """
    from segx.flows.export import settled

    registry = get_registry()
    source: ExportModule | Artifact = module
    info = module.info
    chain = registry.export_chain(kind)
    chosen = export_options(chain[-1], **{"imgsz": info.imgsz, "batch": info.batch, **options})
    key = _key_of(module)
    for spec, settings in zip(chain, settled(chain, chosen), strict=True):
        exporter = registry.exporters.load(spec)
        exporter.check(info, settings)
        destination = folder / f"tiny{spec.suffix}"
        ending = ending_of(spec, info, settings)
        if key:
            facts = (key, full_name(spec), id(exporter), type(settings), settings.as_dict(), ending.to_metadata())
            key = hashlib.sha256(repr(facts).encode()).hexdigest()
        if key in _WRITTEN:
            _, kept, info = _WRITTEN[key]
            shutil.copytree(kept.name, folder, dirs_exist_ok=True)
        else:
            info = finished(exporter, spec, destination, export_with(exporter, source, ending, settings, destination))
            if key:
                _WRITTEN[key] = (exporter, _copied(destination), info)
        source = Artifact(path=destination, format=spec.name)
    assert isinstance(source, Artifact)
    return source, info


def ending_of(spec: ExporterSpec, info: ArtifactInfo, options: ExportOptions) -> ArtifactInfo:
    """Return the info of what a format is to write, of that of its source: the head and the precision it ends in."""
    makes = spec.demands(options).makes
    head = get_registry().tasks.get(info.task).head_in(makes, info.head) if makes is not None else None
    return (info if head is None else head.describe(info, options)).replace(precision=options.precision)


def finished(exporter: Exporter, spec: ExporterSpec, path: Path, info: ArtifactInfo) -> ArtifactInfo:
    """Give a written file its info, as core does once it is proven, and return it."""
    from segx.flows.export import made_of

    if path.is_dir():
        info = info.replace(files=made_of(path))
    if spec.metadata == "embedded":
        exporter.write_info(path, info)
    else:
        sidecar.write(path, info)
    return info


def _key_of(module: ExportModule) -> str:
    """Return what tells a model made here apart from all others; nothing for any other model."""
    origin = _ORIGINS.get(module.module)
    if origin is None:
        return ""
    digest = hashlib.sha256(f"{origin}{module.example.shape}{json.dumps(module.info.to_metadata())}".encode())
    digest.update(module.example.tobytes())
    for name, tensor in module.module.state_dict().items():
        digest.update(f"{name}{tensor.dtype}".encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _copied(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with a copy of a model, and of what describes it; it goes when the process ends."""
    kept = tempfile.TemporaryDirectory(prefix="segx-written-")
    atexit.register(kept.cleanup)
    if path.is_dir():
        shutil.copytree(path, Path(kept.name) / path.name)
        return kept
    for item in (path, sidecar.sidecar_path(path)):
        if item.exists():
            shutil.copy2(item, kept.name)
    return kept
