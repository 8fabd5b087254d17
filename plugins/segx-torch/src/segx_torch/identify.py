"""Finds the architecture and configuration of a checkpoint: by what it says, else by the shapes of its weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from segx.errors import ModelError, PluginError, SegxError
from segx.plugin.catalog import full_name
from segx.plugin.registry import get_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.plugin.interfaces import Architecture
    from segx.plugin.jobs import ModelConfig
    from segx_torch.container import Container

    Shapes = Mapping[str, tuple[int, ...]]

logger = logging.getLogger(__name__)


def identify(container: Container) -> tuple[Architecture, ModelConfig]:
    """Return what builds the model whose weights a container holds.

    Raises:
        ModelError: It is a model for another task, or no architecture installed fits.
        PluginError: Several fit.
    """
    if container.info.task != "segment":
        msg = f"{container.path}: a model for {container.info.task!r}; it has no masks"
        raise ModelError(msg, hint="to start a segmentation model from it: YOLO('yolov8n-seg.yaml').load(file)")
    if container.definition is None:
        return _by_shapes(container)
    architecture = get_registry().architecture_for(container.definition)
    variant = container.info.variant or container.path.stem
    return architecture, architecture.config_from_definition(container.definition, variant=variant)


def _by_shapes(container: Container) -> tuple[Architecture, ModelConfig]:
    """Try the shipped configurations, those named like the file first; the shapes tell the number of classes."""
    given = {name: ref.shape for name, ref in container.weights.items()}
    tried = []
    found: dict[str, tuple[Architecture, ModelConfig]] = {}
    for family, architecture, variant in _candidates(container.path.stem):
        tried.append(variant)
        if family not in found and (config := _fitting_config(architecture, variant, given)) is not None:
            found[family] = architecture, config
    if len(found) > 1:
        msg = f"{container.path}: bare weights, which fit several architectures: {', '.join(found)}"
        raise PluginError(msg, hint="with the YAML of the one that is meant: YOLO('model.yaml').load(file)")
    if found:
        return next(iter(found.values()))
    msg = f"{container.path}: bare weights, of no configuration that is known"
    hint = f"tried: {', '.join(tried) or 'none'}; with your own YAML: YOLO('model.yaml').load(file)"
    raise ModelError(msg, hint=hint)


def _fitting_config(architecture: Architecture, variant: str, given: Shapes) -> ModelConfig | None:
    try:
        nc = _class_count(architecture, variant, given)
        config = None if nc is None else architecture.read_config(variant, nc=nc)
    except SegxError as error:  # one variant that cannot be built must not hide the others
        logger.warning("%s of %s cannot be built: %s", variant, architecture.name, error.message)
        return None
    return config if config and not _misfits(_shapes(architecture, config), given) else None


def _candidates(stem: str) -> Iterator[tuple[str, Architecture, str]]:
    """Yield families by their full names, with each variant they ship."""
    registry = get_registry()
    variants = [(spec, variant) for spec in registry.architectures.specs for variant in spec.variants]
    for spec, variant in sorted(variants, key=lambda item: not stem.startswith(item[1])):
        try:
            architecture = registry.architectures.load(spec)
        except SegxError:  # it is installed without what it needs, which is reported to whoever asks for it by name
            continue
        yield full_name(spec), architecture, variant


def _class_count(architecture: Architecture, variant: str, given: Shapes) -> int | None:
    """Return the number of classes: the length of the axis that grows by one when a class is added."""
    fewer = _shapes(architecture, architecture.read_config(variant, nc=1000))
    more = _shapes(architecture, architecture.read_config(variant, nc=1001))
    for name, shape in fewer.items():
        axes = [axis for axis, (a, b) in enumerate(zip(shape, more[name], strict=True)) if b == a + 1]
        if axes and name in given:
            return given[name][axes[0]] if len(given[name]) == len(shape) else None
    return None


def _shapes(architecture: Architecture, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = architecture.build(config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _misfits(own: Shapes, given: Shapes) -> bool:
    """Return True if a convolution or anything else that both name differs, or either has a weight the other lacks.

    Weights with BatchNorm folded away are let through: the architecture adapts them.
    """
    folded = {name for name in own.keys() - given.keys() if ".bn." in name}
    biases = {f"{name.split('.bn.')[0]}.conv.bias" for name in folded}
    if own.keys() - given.keys() - folded or given.keys() - own.keys() - biases:
        return True
    return any(shape != given[name] for name, shape in own.items() if name in given)
