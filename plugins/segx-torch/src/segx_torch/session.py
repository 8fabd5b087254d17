"""A model open in PyTorch: it runs, takes other weights, is saved, described and exported."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError, reason
from segx.metadata import classes
from segx.options.verbs import SessionOptions
from segx.plugin.base import check_images
from segx.plugin.jobs import LoadReport
from segx.runtime.pytorch import inference, resolve_device
from segx.structures.classes import paired_by_name
from segx_torch.checkpoint import Checkpoint, read_container, write_checkpoint
from segx_torch.container import ANY_SIZE, open_container
from segx_torch.identify import identify
from segx_torch.memory import enlarge_heap
from segx_torch.running import Running, prepare
from segx_torch.shared import State, has_hooks, share_hooks, undressed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import ExportOptions
    from segx.plugin.interfaces import Architecture
    from segx.plugin.jobs import ExportModule, ModelConfig, ModelSummary
    from segx.structures.types import Images

FORMAT = "pt"


class TorchSession:
    """An open model: :class:`segx.plugin.training.ModelSession`.

    The model itself stays on the CPU in float32, as it was trained; a fused copy on the device does the running and is
    made when it is first needed.

    Attributes:
        info: What is known of the model.
        device: Where it runs.
        module: The model as built, with its BatchNorm layers.
        config: What it was built from.
        architecture: The family it belongs to.
        random_weights: Names of the tensors that no file was loaded into.
        channels_last: It takes images with channels last in memory, as a CPU computes.
    """

    def __init__(
        self,
        module: nn.Module,
        config: ModelConfig,
        architecture: Architecture,
        info: ArtifactInfo,
        options: SessionOptions,
    ) -> None:
        self._device = resolve_device(options.device)
        if options.half and self._device.type == "cpu":
            msg = "half=true: torch is slower in half precision on a CPU than in full"
            raise UsageError(msg, hint="leave half out, or give device=cuda")
        self._dtype = torch.float16 if options.half else torch.float32
        self._threads = options.threads
        self._runner: Running | None = None
        self._shared: State | None = None
        self._given: dict[str, Any] = {}
        self._making = threading.Lock()
        self.module = module
        self.config = config
        self.architecture = architecture
        self.random_weights = frozenset(module.state_dict())
        self.info = info.replace(dynamic=ANY_SIZE, precision="fp16" if options.half else "fp32")
        self.device = str(self._device)
        self.channels_last = self._device.type == "cpu"

    def run(self, images: Images) -> tuple[NDArray[np.float32], ...]:
        """Return the raw outputs, in float32, for float32 (N, 3, H, W) images in 0..1, RGB.

        Raises:
            ModelError: The images are of another shape, or their sides are not multiples of the stride.
        """
        check_images(images.shape, self.info, where=self.info.variant or "the model")
        with inference(self._device, self._threads):
            return self._running_model()(images)

    def load_weights(self, artifact: Artifact) -> LoadReport:
        """Move the weights of a file that fit in name and shape into this model, and say what was skipped.

        Classes move by name. Where model and file share no name, the model takes over the file's class names when it
        has as many classes.
        """
        with artifact.take(open_container) as container:
            source = read_container(container)
        report = _move(source.weights, self.module, self.architecture, _paired(source.info.names, self.info.names))
        if not report.loaded:
            count = len(report.skipped)
            msg = f"{artifact.path}: none of its {count} tensors fits {self.config.variant} in name and shape"
            raise ModelError(msg, hint="give weights of the same family and size")
        self.random_weights = self.random_weights.difference(report.loaded)
        if report.classes is None and len(source.info.names) == self.config.nc:
            self.info = self.info.replace(names=source.info.names)
        self.weights_changed()
        return report

    def for_classes(self, names: Mapping[int, str], *, seed: int = 0) -> tuple[TorchSession, LoadReport | None]:
        """Return a session of the same model for other classes, and what of its weights moved over.

        Weights that were never loaded are drawn again from the seed, so that it alone decides where training begins.

        Args:
            names: Class number to class name.
            seed: Where random weights come from.

        What is known of a class moves with its name. Where no name is shared but the number of classes is, they are
        taken to be the same under other names.

        Returns:
            This session and None when it has these classes and no random weights; else a new one.
        """
        pairs = _paired(self.info.names, names)
        if pairs is None and not self.random_weights:
            self.info = self.info.replace(names=dict(names))
            return self, None
        config = self.architecture.config_from_definition(
            {**self.config.definition, "scale": self.config.scale}, variant=self.config.variant, nc=len(names)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.architecture.build(config)
        options = SessionOptions(device=self.device, half=self._dtype == torch.float16, threads=self._threads)
        session = TorchSession(module, config, self.architecture, self.info.replace(names=dict(names)), options)
        learned = {name: own for name, own in self.module.state_dict().items() if name not in self.random_weights}
        report = _move(learned, module, self.architecture, pairs) if learned else None
        session.random_weights = session.random_weights.difference(report.loaded if report else ())
        return session, report

    def beside(self, options: SessionOptions) -> TorchSession:
        """Return another session of the same model, which runs in another way; weights are held once.

        Raises:
            UsageError: The device is not there, or cannot run in half precision.
        """
        other = TorchSession(self.module, self.config, self.architecture, self.info, options)
        other.random_weights, other._shared, other._given = self.random_weights, self._shared, self._given
        return other

    def weights_changed(self) -> None:
        """Have the copy that runs made anew, after the model's weights were changed in place."""
        self._runner = None

    def save(self, path: Path) -> Artifact:
        """Write the model as segx's own checkpoint, or as safetensors by that suffix; never half a file.

        Raises:
            DataError: The file cannot be written; what was there before is untouched.
        """
        checkpoint = Checkpoint(
            info=self.info.replace(
                precision="fp32",
                versions={**self.info.versions, **_versions()},
                date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            ),
            definition={**self.config.definition, "nc": self.config.nc, "scale": self.config.scale},
            weights=self.module.state_dict(),
        )
        write_checkpoint(path, checkpoint)
        return Artifact(path=path, format=FORMAT)

    def export_module(self, options: ExportOptions, info: ArtifactInfo) -> ExportModule:
        """Return the model as exporters take it, on the device the options name, else on the CPU."""
        device = resolve_device(options.device or "cpu")
        module = self.module.to(device)
        try:
            with undressed(module, self._given):
                return self.architecture.export_module(module, info)
        finally:
            self.module = module.to("cpu")

    def share_module(self) -> nn.Module:
        """Return the model itself, in eval mode, with what programs ask a model for: what is changed in it counts.

        :meth:`heed` says from then on whether it was changed.
        """
        definition = {**self.config.definition, "nc": self.config.nc, "scale": self.config.scale}
        strides = torch.tensor([float(side) for side in getattr(self.module, "strides", (self.info.stride,))])
        self._take_names()
        known = {"names": self.info.names, "task": self.info.task, "yaml": definition, "stride": strides}
        known["args"] = dict(self.info.settings)
        own = self.module
        self._given = {name: value for name, value in known.items() if name in self._given or not hasattr(own, name)}
        vars(own).update(self._given)
        if self._shared is None:
            self._shared = State.of(self.module)
            self._runner = None  # the next one calls its hooks
        return own.eval()

    def heed(self) -> bool:
        """Return True if values of the model were changed from outside since it was shared, or since this was asked.

        Raises:
            UsageError: Its layers are no longer those of its definition, by which it is saved and trained.
        """
        before = self._shared
        if before is None:
            return False
        self._take_names()
        now = State.of(self.module)
        if now.layers != before.layers:
            what = before.other_layer(now)
            msg = f"model.model is no longer a {self.config.variant or 'model of its definition'}: {what}"
            hint = (
                'values may be changed, layers may not: a network of your own is a YAML, YOLO("mine.yaml"), or a plugin'
            )
            raise UsageError(msg, hint=hint)
        self._shared = now
        if now.values == before.values:
            return False
        self.weights_changed()
        return True

    def _take_names(self) -> None:
        """Call classes as the names say that a program has put into the module.

        Raises:
            UsageError: They are not one for each class.
        """
        given, own = vars(self.module).get("names"), self.info.names
        if "names" not in self._given or given is own or not isinstance(own, dict):
            return
        try:
            renamed = classes(given)
        except ValueError as error:
            raise UsageError(f"model.model.{error}", hint='model.model.names[0] = "cat" renames one class') from error
        if len(renamed) != self.config.nc:
            raise UsageError(f"model.model.names has {len(renamed)} names for {self.config.nc} classes")
        own.update(renamed)
        vars(self.module)["names"] = own

    def describe(self) -> ModelSummary:
        """Return parameters, FLOPs and layers, at the input size the model was made for."""
        return self.architecture.summarise(self.module, self.info.imgsz)

    def close(self) -> None:
        """Free the copy that runs."""
        self._runner = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _running_model(self) -> Running:
        with self._making:
            if self._runner is None:
                with undressed(self.module, self._given):
                    fused: nn.Module = self.architecture.fuse(self.module)
                if self._shared is not None:
                    share_hooks(self.module, fused)
                if self._device.type == "cpu":
                    enlarge_heap()
                    streamline = getattr(self.architecture, "streamline", None)
                    fused = fused if self._shared is not None or streamline is None else streamline(fused)
                self._runner = Running(
                    prepare(fused, self._device, self._dtype),
                    self._device,
                    self._dtype,
                    hooked=None if self._shared is None else partial(has_hooks, fused),
                    traceable=self._shared is None and getattr(self.architecture, "traceable", False),
                )
            return self._runner


def open_session(artifact: Artifact, options: SessionOptions) -> TorchSession:
    """Return a session of a checkpoint's model.

    Raises:
        ModelError: The file is missing, damaged, unsafe or of another kind, or no architecture installed fits.
        UsageError: The device is not there, or cannot run in half precision.
    """
    with artifact.take(open_container) as container:
        architecture, config = identify(container)
        checkpoint = read_container(container)
    module = _filled(architecture, config, checkpoint, artifact.path)
    known = architecture.info(config, checkpoint.info.names)
    info = checkpoint.info.replace(
        task=known.task,
        head=known.head,
        architecture=known.architecture,
        variant=known.variant,
        names=known.names,
        stride=known.stride,
        outputs=known.outputs,
    )
    session = TorchSession(module, config, architecture, info, options)
    session.random_weights = frozenset()
    return session


def _filled(architecture: Architecture, config: ModelConfig, checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Return the model with the checkpoint's tensors as its own; they are taken over, not copied."""
    try:
        with torch.device("meta"):
            module: nn.Module = architecture.build(config)
    except (RuntimeError, OverflowError) as error:  # sizes no memory can be addressed by
        raise ModelError(
            f"{path}: its definition cannot be built ({reason(error)})", hint="save the file again"
        ) from error
    own = module.state_dict()
    given = _adapted(architecture, module, checkpoint.weights)
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} {misfit}" for name, tensor in given.items() if (misfit := _misfit(tensor, own.get(name)))]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        msg = f"{path}: its weights are not those of its {config.variant} definition: {problems[0]}{more}"
        raise ModelError(msg, hint="to take over what fits: train with model=yolov8n-seg.yaml pretrained=file")
    module.load_state_dict(given, strict=True, assign=True)
    module.requires_grad_(requires_grad=True)
    return module


def _paired(theirs: Mapping[int, str], ours: Mapping[int, str]) -> dict[int, int] | None:
    """Return our class numbers to theirs, by name; None where they are the same but for their names, or have none."""
    pairs = paired_by_name(theirs, ours)
    same = len(theirs) == len(ours) and (not pairs or pairs == {number: number for number in ours})
    return None if same or not theirs else pairs


def _move(
    weights: Mapping[str, Tensor], module: nn.Module, architecture: Architecture, pairs: Mapping[int, int] | None
) -> LoadReport:
    """Copy the tensors that fit a module in name and shape into it, and say what was skipped.

    Args:
        weights: The tensors by name.
        module: The module they go into.
        architecture: The family it belongs to.
        pairs: The module's class numbers to those of the weights; None: they are the same.
    """
    own = module.state_dict()
    given = _adapted(architecture, module, weights)
    skipped = {name: misfit for name, tensor in given.items() if (misfit := _misfit(tensor, own.get(name)))}
    rows = [] if pairs is None else [name for name in architecture.class_tensors(module) if name in given]
    classes: tuple[int, ...] | None = None if pairs is None else ()
    if pairs and all(own[name].shape[1:] == given[name].shape[1:] for name in rows):
        skipped = {name: misfit for name, misfit in skipped.items() if name not in rows}
        given |= {name: _with_rows(own[name], given[name], pairs) for name in rows}
        classes = tuple(sorted(pairs))
    else:  # of another width, or of none of these classes: they begin anew together
        skipped = {**dict.fromkeys(rows, "is for other classes"), **skipped}
    loaded = tuple(name for name in given if name not in skipped)
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(given[name])
    missing = tuple(name for name in own if name not in given)
    return LoadReport(loaded=loaded, skipped=skipped, missing=missing, classes=classes)


def _with_rows(own: Tensor, given: Tensor, pairs: Mapping[int, int]) -> Tensor:
    """Return a tensor with the rows of another in the place of those they are paired with."""
    rows = own.clone()
    rows[list(pairs)] = given[list(pairs.values())].to(rows)
    return rows


def _adapted(architecture: Architecture, module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return architecture.adapt_weights(module, weights)


def _misfit(tensor: Tensor, own: Tensor | None) -> str:
    if own is None:
        return "is not in the model"
    if tensor.shape != own.shape:
        return f"has shape {tuple(tensor.shape)}, the model's has {tuple(own.shape)}"
    return ""


def _versions() -> dict[str, str]:
    return {"segx-torch": importlib.metadata.version("segx-torch"), "torch": str(torch.__version__)}
