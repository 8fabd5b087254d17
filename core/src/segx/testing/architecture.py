"""What every family of models keeps: it reads its definitions, says what is wrong in one, and what it builds runs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.options.verbs import DecodeOptions
from segx.structures.batch import SourceImage
from segx.testing.models import TINY_YOLOV8, run_module, tiny_info
from segx.testing.parity import assert_same_outputs
from segx.testing.plugin import PluginContract, load_or_skip
from segx.testing.scenes import NAMES, noise_images

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.plugin.interfaces import Architecture
    from segx.plugin.jobs import ModelConfig
    from segx.plugin.registry import Registry
    from segx.plugin.specs import ArchitectureSpec
    from segx.structures.boxes import Boxes

_BUILDS = """
    import yaml
    architecture = registry.architectures.load(sys.argv[2])
    architecture.build(architecture.config_from_definition(yaml.safe_load(sys.argv[3]), variant="tiny"))
"""


class ArchitectureContract(PluginContract, standard=True):
    """Tests of a family of models, with a tiny definition of it.

    Attributes:
        name: The architecture's name.
        tiny: A YAML of the family's schema with 3 classes; the default is a tiny YOLOv8-seg.
        block: A name of a block in ``tiny``; it is misspelt to see what is told.
    """

    name: ClassVar[str]
    tiny: ClassVar[str] = TINY_YOLOV8
    block: ClassVar[str] = "SPPF"

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, registry: Registry) -> ArchitectureSpec:
        """The architecture's declaration."""
        return registry.architectures.get(f"{cls.name}@{cls.distribution}")

    @pytest.fixture(scope="class")
    @classmethod
    def architecture(cls, registry: Registry, spec: ArchitectureSpec) -> Architecture:
        """The architecture, loaded; skips where what it requires is not installed."""
        return cast("Architecture", load_or_skip(registry, spec))

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """The tiny definition as a file of the user's."""
        path = tmp_path / "tiny.yaml"
        path.write_text(self.tiny, encoding="utf-8")
        return path

    @pytest.fixture
    def definition(self) -> dict[str, Any]:
        """What the tiny definition holds."""
        import yaml

        content: dict[str, Any] = yaml.safe_load(self.tiny)
        return content

    @pytest.fixture
    def config(self, architecture: Architecture, file: Path) -> ModelConfig:
        """The tiny definition, read."""
        return architecture.read_config(file)

    @pytest.fixture
    def module(self, architecture: Architecture, config: ModelConfig) -> Any:
        """A tiny model in eval mode, its BatchNorm layers filled with something to fold."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(1)
            module = architecture.build(config)
            for layer in module.modules():
                if isinstance(layer, torch.nn.BatchNorm2d) and layer.running_mean is not None:
                    layer.running_mean.normal_(0, 0.1)
                    layer.get_buffer("running_var").uniform_(0.5, 1.5)
        return module.eval()

    @pytest.fixture
    def work(self, spec: ArchitectureSpec, architecture: Architecture) -> tuple[str, tuple[str, ...]]:  # noqa: ARG002 - skips
        """Build the tiny model."""
        return _BUILDS, (f"{spec.name}@{spec.provider}", self.tiny)

    def test_declaration_is_complete(
        self, spec: ArchitectureSpec, architecture: Architecture, registry: Registry
    ) -> None:
        """The loaded architecture has the declared name; each variant leads back to it; published files are files."""
        assert architecture.name == spec.name
        for variant in spec.variants:
            assert registry.variant(variant) == spec
            assert registry.variant(f"{variant}.yaml") == spec
        for file, published in spec.weights.items():
            assert registry.weights_file(file) == published
            if published.path is not None:
                assert published.path.name == file
                assert published.path.is_file(), "weights that come with the plugin are in it"
            else:
                assert published.url.startswith("https://")
                assert published.url.endswith(f"/{file}")

    def test_reads_what_it_ships(self, spec: ArchitectureSpec, architecture: Architecture) -> None:
        """Each variant by its bare name and as ``.yaml``."""
        for variant in spec.variants:
            config = architecture.read_config(variant)
            assert (config.architecture, config.variant) == (spec.name, variant)
            assert architecture.read_config(f"{variant}.yaml") == config
            assert architecture.detects(config.definition)

    def test_reads_a_file_of_the_users(self, architecture: Architecture, file: Path) -> None:
        """And takes another number of classes when told."""
        assert architecture.read_config(file).nc == 3
        assert architecture.read_config(str(file), nc=7).nc == 7
        with pytest.raises(ModelError):
            architecture.read_config(file, nc=0)

    def test_knows_its_own(self, architecture: Architecture, definition: dict[str, Any], registry: Registry) -> None:
        """Detects its own definitions, and nothing else, whatever it is shown."""
        assert architecture.detects(definition)
        assert registry.architecture_for(definition) is architecture
        others: list[Any] = [{}, {"nc": 3}, {"backbone": 3, "head": None}, {"head": [[]]}, {1: 2}, {"head": "Segment"}]
        for other in others:
            assert not architecture.detects(other)

    def test_config_goes_through_a_checkpoint(self, architecture: Architecture, config: ModelConfig) -> None:
        """What a checkpoint carries, plain values only, gives the same configuration back."""
        import json

        carried: Mapping[str, Any] = json.loads(json.dumps({**config.definition, "scale": config.scale}))
        again = architecture.config_from_definition(carried, variant=config.variant, nc=config.nc)
        assert (again.variant, again.scale, again.nc) == (config.variant, config.scale, config.nc)
        assert _shapes(architecture.build(again)) == _shapes(architecture.build(config))

    def test_unknown_block_is_named(self, architecture: Architecture, tmp_path: Path) -> None:
        """The error names it and those that are known."""
        assert self.block in self.tiny
        path = tmp_path / "wrong.yaml"
        path.write_text(self.tiny.replace(self.block, f"{self.block}x"), encoding="utf-8")
        with pytest.raises(ModelError, match=f"{self.block}x") as refusal:
            architecture.read_config(path)
        known = str(refusal.value).replace(f"{self.block}x", "")
        assert self.block in known, "the blocks that are known are listed"

    @pytest.mark.parametrize("content", ["", "[]", "nc: three", "nc: 3\nhead: []", "{", "\0", "import os"])
    def test_wrong_definition_is_reported(self, architecture: Architecture, tmp_path: Path, content: str) -> None:
        """With the file's name; nothing in it is executed."""
        path = tmp_path / "wrong.yaml"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ModelError, match="wrong"):
            architecture.read_config(path)

    def test_missing_definition_is_reported(self, architecture: Architecture, tmp_path: Path) -> None:
        """With its name."""
        with pytest.raises(ModelError, match="absent"):
            architecture.read_config(tmp_path / "absent.yaml")

    def test_info_is_of_the_model(
        self, spec: ArchitectureSpec, architecture: Architecture, config: ModelConfig, registry: Registry
    ) -> None:
        """Task, head, names and stride; the head is one that the task decodes, where the task is installed."""
        info = architecture.info(config, NAMES)
        assert isinstance(info, ArtifactInfo)
        assert (info.task, info.architecture, info.variant) == (spec.task, spec.name, config.variant)
        assert dict(info.names) == NAMES
        assert len(architecture.info(config).names) == config.nc, "names are made up where there are none"
        assert info.stride > 0
        assert info.outputs
        if info.task in registry.tasks:
            assert info.head in registry.tasks.load(info.task).heads

    def test_builds_a_model_that_learns(self, architecture: Architecture, config: ModelConfig) -> None:
        """In training mode, in float32, every weight open to training."""
        import torch

        module = architecture.build(config)
        assert isinstance(module, torch.nn.Module)
        assert module.training
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        assert trained
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        assert _shapes(module) == _shapes(architecture.build(config)), "built alike each time"

    def test_class_tensors_have_a_row_for_each_class(
        self, architecture: Architecture, module: Any, config: ModelConfig
    ) -> None:
        """So a class moves with its name when a model is trained for others; there may be no such tensors."""
        own = module.state_dict()
        assert all(len(own[name]) == config.nc for name in architecture.class_tensors(module))

    def test_fused_model_says_the_same(self, architecture: Architecture, module: Any, config: ModelConfig) -> None:
        """Folding BatchNorm, or images with channels last in memory, change no output; it makes a copy."""
        import torch

        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        wanted = run_module(architecture.export_module(module, _info(architecture, config)), _images())
        fused = architecture.fuse(module)
        assert fused is not module
        assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in fused.modules())
        with torch.inference_mode():
            images = torch.from_numpy(_images())
            every = [module(images), fused(images), fused(images.contiguous(memory_format=torch.channels_last))]
        plain, *others = [[np.asarray(tensor) for tensor in _tensors(outputs)] for outputs in every]
        for found in others:
            assert_same_outputs(found, plain, names=[f"output {index}" for index in range(len(found))])
        assert len(wanted) == len(architecture.info(config).outputs)
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[name]), f"fusing changed {name} of the original"

    def test_export_module_is_plain(self, architecture: Architecture, module: Any, config: ModelConfig) -> None:
        """A tuple of tensors as ``info.outputs`` names them; the original stays as it was."""
        info = _info(architecture, config)
        layers = copy.deepcopy(_shapes(module))
        exported = architecture.export_module(module, info)
        assert exported.info.outputs == info.outputs
        assert exported.example.shape == (info.batch, 3, *info.imgsz)
        assert not exported.module.training
        outputs = run_module(exported, exported.example)
        assert len(outputs) == len(info.outputs) == len(exported.output_axes)
        assert all(output.dtype == np.float32 and output.shape[0] == info.batch for output in outputs)
        assert _shapes(module) == layers

    def test_dynamic_export_takes_any_size(self, architecture: Architecture, module: Any, config: ModelConfig) -> None:
        """One wrapped for any size says at its own size what the fixed one says, and takes others."""
        info = _info(architecture, config)
        fixed = architecture.export_module(module, info)
        everything = frozenset({"batch", "height", "width"})
        dynamic = architecture.export_module(module, info.replace(dynamic=everything))
        assert_same_outputs(run_module(dynamic, _images()), run_module(fixed, _images()), names=info.outputs)
        outputs = run_module(dynamic, noise_images((2, 3, 96, 64)))
        assert all(output.shape[0] == 2 for output in outputs)
        for output, axes, small in zip(outputs, dynamic.output_axes, run_module(fixed, _images()), strict=True):
            changed = {axis for axis, (a, b) in enumerate(zip(output.shape, small.shape, strict=True)) if a != b}
            assert changed <= set(axes), f"axes {changed} change with the input, {set(axes)} are declared"

    def test_each_head_is_the_same_model(
        self, spec: ArchitectureSpec, architecture: Architecture, module: Any, config: ModelConfig, registry: Registry
    ) -> None:
        """Whichever form a graph is asked to end in, its task finds the same objects."""
        info = _info(architecture, config)
        heads = {form: head for form, head in spec.heads.items() if head != info.head}
        if not heads or info.task not in registry.tasks:
            pytest.skip("there is one head, or no task that reads them")
        task = registry.tasks.load(info.task)
        options = DecodeOptions(conf=0.0, iou=1.0, max_det=50, masks=False)
        sources = [SourceImage(image=np.zeros((*info.imgsz, 3), np.uint8), path="drawn.png")]
        batch = task.preprocess(sources, info.imgsz)

        def found(head: str, more: frozenset[str] = frozenset()) -> Boxes:
            wrapped = architecture.export_module(module, info.replace(head=head, dynamic=more))
            outputs = run_module(wrapped, _images())
            assert wrapped.info.head == head
            assert len(outputs) == len(wrapped.info.outputs) == len(wrapped.output_axes)
            return task.decode(outputs, batch, wrapped.info, options)[0].boxes

        usual = found(info.head)
        assert len(usual) == 50
        for form, head in heads.items():
            assert head in task.heads, f"form {form} ends in a head that the task does not read"
            for boxes in (found(head), found(head, frozenset({"batch", "height", "width"}))):
                np.testing.assert_array_equal(boxes.cls, usual.cls)
                np.testing.assert_allclose(boxes.data[:, :5], usual.data[:, :5], atol=1e-3)

    def test_summary_counts(self, architecture: Architecture, module: Any) -> None:
        """Parameters as they are, fewer when fused, FLOPs that grow with the area."""
        summary = architecture.summarise(module, (64, 64))
        larger = architecture.summarise(module, (128, 128))
        assert summary.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert 0 < summary.fused_parameters < summary.parameters
        assert larger.gflops == pytest.approx(4 * summary.gflops, rel=0.02)


def _info(architecture: Architecture, config: ModelConfig) -> ArtifactInfo:
    known = architecture.info(config, NAMES)
    return tiny_info().replace(head=known.head, variant=known.variant, stride=known.stride, outputs=known.outputs)


def _images() -> Any:
    return noise_images((1, 3, *tiny_info().imgsz))


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _tensors(outputs: Any) -> list[Any]:
    """Return all tensors of nested outputs, in order."""
    if hasattr(outputs, "detach"):
        return [outputs.detach()]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for item in outputs for tensor in _tensors(item)]
    return (
        [tensor for item in vars(outputs).values() for tensor in _tensors(item)] if hasattr(outputs, "__dict__") else []
    )
