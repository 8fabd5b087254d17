"""An open checkpoint runs, takes other weights, is saved, described and exported; a new model does the same."""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from segx.artifact import Artifact
from segx.errors import ModelError, PluginError, UsageError
from segx.options.verbs import ExportOptions, SessionOptions
from segx.plugin.training import ModelSession
from segx.testing.scenes import NAMES, noise_images
from segx.testing.training import tiny_session
from segx_torch import identify as identify_module
from segx_torch import running
from segx_torch.backend import TorchBackend
from segx_torch.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segx_torch.container import open_container
from segx_torch.session import TorchSession

if TYPE_CHECKING:
    from pathlib import Path

CPU = SessionOptions(device="cpu")


@pytest.fixture
def session(tiny: Any) -> TorchSession:
    """A session of a copy of the tiny model."""
    module = tiny.architecture.build(tiny.config)
    module.load_state_dict(tiny.module.state_dict())
    info = tiny.architecture.info(tiny.config, NAMES).replace(imgsz=(64, 96), settings={"data": "x.yaml"})
    return TorchSession(module, tiny.config, tiny.architecture, info, CPU)


def _saved(session: TorchSession, path: Path) -> Artifact:
    return session.save(path)


def _opened(path: Path) -> TorchSession:
    session = TorchBackend().open(Artifact(path=path, format="pt"), CPU)
    assert isinstance(session, ModelSession)
    assert isinstance(session, TorchSession)
    return session


def test_runs_what_the_module_says(session: TorchSession, tiny: Any) -> None:
    """The fused copy gives what the model with its BatchNorm gives, for any batch and size."""
    for shape in ((1, 3, 64, 96), (3, 3, 32, 64)):
        images = noise_images(shape)
        with torch.inference_mode():
            wanted = tiny.module.eval()(torch.from_numpy(images))
        got = session.run(images)
        assert [output.dtype for output in got] == [np.float32] * 2
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_running_leaves_the_model_as_it_was(session: TorchSession) -> None:
    before = {name: tensor.clone() for name, tensor in session.module.state_dict().items()}
    session.run(noise_images((1, 3, 64, 96)))
    for name, tensor in session.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.requires_grad for name, parameter in session.module.named_parameters() if "dfl" not in name)


def test_saved_and_opened_again(session: TorchSession, tmp_path: Path) -> None:
    images = noise_images((1, 3, 64, 96))
    artifact = session.save(tmp_path / "deep" / "tiny.pt")
    assert artifact == Artifact(path=tmp_path / "deep" / "tiny.pt", format="pt")
    again = _opened(artifact.path)
    for ours, theirs in zip(again.run(images), session.run(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.info.names == NAMES
    assert again.info.settings == {"data": "x.yaml"}
    assert again.info.imgsz == (64, 96)
    assert again.info.dynamic == {"batch", "height", "width"}
    assert again.info.versions.keys() >= {"torch", "segx-torch"}
    assert again.config.definition == session.config.definition
    assert again.describe() == session.describe()


def test_opened_model_can_be_trained(session: TorchSession, tmp_path: Path) -> None:
    """Weights taken over from a file are parameters of their own, with gradients, and share no memory by accident."""
    module = _opened(session.save(tmp_path / "m.pt").path).module.train()
    loss = sum(output.float().square().mean() for output in module(torch.rand(1, 3, 64, 64))[:4])
    loss.backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    places = [parameter.data_ptr() for parameter in module.parameters()]
    assert len(set(places)) == len(places)


def test_state_dict_alone_is_recognised(tmp_path: Path) -> None:
    """Size and number of classes follow from the shapes, whatever the file is called."""
    backend = TorchBackend()
    architecture = _opened_architecture()
    config = architecture.read_config("yolov8n-seg", nc=7)
    torch.save(architecture.build(config).state_dict(), tmp_path / "weights.pt")
    session = backend.open(Artifact(path=tmp_path / "weights.pt", format="pt"), CPU)
    assert isinstance(session, TorchSession)
    assert (session.config.variant, session.config.nc, len(session.info.names)) == ("yolov8n-seg", 7, 7)


def test_folded_state_dict_is_recognised(tmp_path: Path) -> None:
    architecture = _opened_architecture()
    module = architecture.build(architecture.read_config("yolov8n-seg", nc=2)).eval()
    torch.save(architecture.fuse(module).state_dict(), tmp_path / "folded.pt")
    session = _opened(tmp_path / "folded.pt")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = module(images)
    for ours, theirs in zip(session.run(images.numpy()), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-3)


def _opened_architecture() -> Any:
    from segx.plugin.registry import get_registry

    return get_registry().architectures.load("yolov8-seg")


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_weights_of_another_definition_are_refused(session: TorchSession, tmp_path: Path, change: str) -> None:
    state = session.module.state_dict()
    name = next(iter(state))
    if change == "shape":
        state[name] = torch.zeros(1, 2, 3)
    elif change == "missing":
        del state[name]
    else:
        state["new.weight"] = torch.zeros(1)
    definition = {**session.config.definition, "scale": "n"}
    write_checkpoint(tmp_path / "m.pt", Checkpoint(info=session.info, definition=definition, weights=state))
    with pytest.raises(ModelError, match="not those of") as refusal:
        _opened(tmp_path / "m.pt")
    assert ("new.weight" if change == "extra" else name) in str(refusal.value)


@pytest.mark.parametrize("place", ["repeats", "channels", "kernel"])
def test_definition_of_monstrous_size_is_refused(tiny: Any, session: TorchSession, tmp_path: Path, place: str) -> None:
    """Before memory or time is spent on it."""
    definition = copy.deepcopy({**tiny.config.definition, "scale": "n"})
    row = definition["backbone"][3 if place == "repeats" else 1]
    if place == "repeats":
        row[1] = 10**7
    else:
        row[3][0 if place == "channels" else 1] = 10**10
    checkpoint = Checkpoint(info=session.info, definition=definition, weights=session.module.state_dict())
    write_checkpoint(tmp_path / "m.pt", checkpoint)
    started = time.perf_counter()
    with pytest.raises(ModelError):
        _opened(tmp_path / "m.pt")
    assert time.perf_counter() - started < 5


def test_bare_weights_that_fit_two_families_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose name sorts first decides nothing."""
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pt")
    claims = [("one@a", "first", "s"), ("one@a", "first", "m"), ("two@b", "second", "s")]
    monkeypatch.setattr(identify_module, "_candidates", lambda _stem: iter(claims))
    monkeypatch.setattr(identify_module, "_fitting_config", lambda _, variant, __: variant if variant == "s" else None)
    with open_container(tmp_path / "linear.pt") as container:
        with pytest.raises(PluginError, match="fit several architectures: one@a, two@b"):
            identify_module.identify(container)
        claims.pop()
        assert identify_module.identify(container) == ("first", "s")


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(ModelError, match="no configuration that is known") as refusal:
        _opened(tmp_path / "linear.pt")
    assert "yolov8x-seg" in refusal.value.hint


def test_detection_model_is_reported_and_lends_its_weights(forge: Any, tmp_path: Path, session: TorchSession) -> None:
    weight = forge.parameter(forge.tensor(forge.storage("0", 4), (2, 2), (2, 1)))
    model = forge.module(("ultralytics.nn.tasks", "DetectionModel"), {"x": weight})
    path = forge.archive(tmp_path / "yolov8n.pt", forge.pickle(forge.dict({"model": model})))
    with pytest.raises(ModelError, match="no masks") as refusal:
        _opened(path)
    assert ".load(" in refusal.value.hint
    with pytest.raises(ModelError, match="none of its 1 tensors fits"):
        session.load_weights(Artifact(path=path, format="pt"))


def test_load_weights_moves_what_fits(session: TorchSession, tmp_path: Path) -> None:
    """As from a detection model: the head's mask branch is missing, and one layer has another shape."""
    name = "model.0.conv.weight"
    other = {key: tensor + 1 for key, tensor in session.module.state_dict().items() if ".cv4." not in key}
    other[name] = torch.zeros(1, 3, 3, 3)
    other["model.99.weight"] = torch.zeros(1)
    torch.save(other, tmp_path / "other.pt")
    before = {key: tensor.clone() for key, tensor in session.module.state_dict().items()}
    first = session.run(noise_images((1, 3, 64, 96)))
    report = session.load_weights(Artifact(path=tmp_path / "other.pt", format="pt"))
    assert report.skipped.keys() == {name, "model.99.weight"}
    assert "(1, 3, 3, 3)" in report.skipped[name]
    assert "not in the model" in report.skipped["model.99.weight"]
    assert report.missing
    assert all(".cv4." in key for key in report.missing)
    for key, tensor in session.module.state_dict().items():
        moved = key in report.loaded
        torch.testing.assert_close(tensor, other[key] if moved else before[key], rtol=0, atol=0)
    assert not np.array_equal(first[0], session.run(noise_images((1, 3, 64, 96)))[0]), "the copy that runs is made anew"


def test_load_weights_brings_the_names(session: TorchSession, tiny: Any, tmp_path: Path) -> None:
    session.info = session.info.replace(names={0: "cat", 1: "dog", 2: "hen"})
    artifact = _saved(session, tmp_path / "m.pt")
    fresh = TorchBackend().build(tiny.config, tiny.architecture, CPU)
    report = fresh.load_weights(artifact)
    assert not report.skipped
    assert not report.missing
    assert fresh.info.names == {0: "cat", 1: "dog", 2: "hen"}


def test_built_model_runs(tiny: Any) -> None:
    session = TorchBackend().build(tiny.config, tiny.architecture, CPU)
    assert isinstance(session, ModelSession)
    outputs = session.run(noise_images((1, 3, 64, 96)))
    assert len(outputs) == len(session.info.outputs)
    assert session.describe().parameters == sum(parameter.numel() for parameter in tiny.module.parameters())


def test_export_module_gives_what_runs(session: TorchSession) -> None:
    images = noise_images((1, 3, 64, 96))
    module = session.export_module(ExportOptions(), session.info.replace(dynamic=frozenset()))
    assert module.example.shape == (1, 3, 64, 96)
    with torch.inference_mode():
        outputs = module.module(torch.from_numpy(images))
    for ours, theirs in zip(outputs, session.run(images), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-4)


def test_half_on_a_cpu_is_refused(session: TorchSession, tmp_path: Path) -> None:
    artifact = _saved(session, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="half=true") as refusal:
        TorchBackend().open(artifact, SessionOptions(device="cpu", half=True))
    assert "device=cuda" in refusal.value.hint


def test_threads_are_put_back(session: TorchSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _saved(session, tmp_path / "m.pt")
    before = torch.get_num_threads()
    wanted = before + 1
    seen: list[int] = []
    opened = TorchBackend().open(artifact, SessionOptions(device="cpu", threads=wanted))
    assert isinstance(opened, TorchSession)
    fuse = opened.architecture.fuse
    monkeypatch.setattr(opened.architecture, "fuse", lambda m: (seen.append(torch.get_num_threads()), fuse(m))[1])
    opened.run(noise_images((1, 3, 64, 96)))
    assert seen == [wanted]
    assert torch.get_num_threads() == before


def test_arrays_of_other_kinds_are_taken(session: TorchSession) -> None:
    images = noise_images((1, 3, 64, 96))
    wanted = session.run(images)
    for given in (images.astype(np.float64), torch.from_numpy(images).numpy()[:, :, ::-1][:, :, ::-1]):
        for ours, theirs in zip(session.run(given), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_nothing_is_said_while_opening(session: TorchSession, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A scale chosen when the model was made is not asked for again."""
    artifact = _saved(session, tmp_path / "m.pt")
    with caplog.at_level(logging.WARNING):
        _opened(artifact.path)
    assert not caplog.records


def test_older_definition_opens(forge: Any, tmp_path: Path) -> None:
    """An official container of a small size, with names and a definition of 2023's first months, opens and runs."""
    path = _official_file(forge, tmp_path / "best.pt")
    session = _opened(path)
    assert session.config.scale == "s"
    assert session.info.names == {0: "a", 1: "b"}
    assert len(session.run(noise_images((1, 3, 32, 32)))) == 2


def _official_file(forge: Any, path: Path) -> Path:
    """Write the tiny architecture as an official file holds a model: nested modules in half precision."""
    import yaml

    from segx.testing.models import TINY_YOLOV8

    architecture = _opened_architecture()
    definition = yaml.safe_load(TINY_YOLOV8)
    depth, width, _ = definition.pop("scales")["n"]
    older = {**definition, "nc": 2, "scales": {"s": [depth, width, 1 << 20]}}
    config = architecture.config_from_definition(older, variant="yolov8s-seg")
    storages: dict[str, bytes] = {}

    def record(module: torch.nn.Module) -> bytes:
        tensors = {}
        for group in (module._parameters, module._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    key = str(len(storages))
                    kind = "HalfStorage" if tensor.is_floating_point() else "LongStorage"
                    data = tensor.detach().half() if tensor.is_floating_point() else tensor
                    storages[key] = data.contiguous().numpy().tobytes()
                    view = forge.storage(key, tensor.numel(), kind)
                    tensors[name] = forge.tensor(view, tuple(tensor.shape), tensor.stride())
        children = {name: record(child) for name, child in module.named_children()}
        return forge.module(("ultralytics.nn.modules.conv", "Conv"), tensors, children)

    def literal(value: Any) -> bytes:
        match value:
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return forge.number(value)
            case float():
                return forge.real(value)
            case list():
                return forge.list(*map(literal, value))
            case _:
                return forge.text(str(value))

    plain = {key: literal(value) for key, value in definition.items()}
    yaml_content = forge.dict(
        {
            **plain,
            "nc": forge.number(2),
            "depth_multiple": forge.real(depth),
            "width_multiple": forge.real(width),
            "yaml_file": forge.text("/usr/src/yolov8s-seg.yaml"),
        }
    )
    children = {name: record(child) for name, child in architecture.build(config).named_children()}
    names = forge.list(forge.text("a"), forge.text("b"))
    model = forge.module(
        ("ultralytics.nn.tasks", "SegmentationModel"), modules=children, names=names, yaml=yaml_content
    )
    return forge.archive(path, forge.pickle(forge.dict({"model": model, "ema": b"N"})), storages)


@pytest.mark.real
def test_real_checkpoints_open_and_agree(real_data: Path) -> None:
    """The official container and the same weights as a plain state dict say the same of an image."""
    official = _opened(real_data / "weights" / "yolov8n-seg.pt")
    plain = _opened(real_data / "weights" / "yolov8n-seg.state_dict.pt")
    assert official.config.variant == plain.config.variant == "yolov8n-seg"
    assert official.describe().parameters == 3_409_968
    images = noise_images((1, 3, 64, 96))
    for ours, theirs in zip(official.run(images), plain.run(images), strict=True):
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


@pytest.mark.real
def test_real_checkpoint_converts(real_data: Path, tmp_path: Path) -> None:
    """From the official container to segx's own and to safetensors: the same outputs, and no pickle of objects left."""
    official = _opened(real_data / "weights" / "yolov8n-seg.pt")
    images = noise_images((1, 3, 64, 96))
    wanted = official.run(images)
    for name in ("own.pt", "own.safetensors"):
        again = _opened(official.save(tmp_path / name).path)
        assert again.info.names == official.info.names
        assert again.info.settings["epochs"] == 500
        for ours, theirs in zip(again.run(images), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert read_checkpoint(tmp_path / "own.pt").kind == "segx"


def test_what_is_known_of_a_class_moves_with_its_name(tmp_path: Path) -> None:
    session = tiny_session(tmp_path)
    names = dict(session.info.names)
    architecture = session.architecture
    rows = architecture.class_tensors(session.module)
    assert rows
    own = session.module.state_dict()
    assert all(len(own[name]) == len(names) for name in rows)
    session.random_weights = frozenset()
    wanted = {0: "new", 1: names[1].upper(), 2: "other", 3: names[0]}
    moved, report = session.for_classes(wanted, seed=1)
    fresh, _ = tiny_session(tmp_path, seed=1).for_classes({number: f"fresh{number}" for number in wanted}, seed=1)
    assert report is not None
    assert report.classes == (1, 3)
    assert not report.skipped
    for name in rows:
        found, begun = moved.module.state_dict()[name], fresh.module.state_dict()[name]
        assert found[[1, 3]].equal(own[name][[1, 0]])
        assert found[[0, 2]].equal(begun[[0, 2]])
    turned, report = session.for_classes(dict(enumerate(reversed(names.values()))), seed=1)
    assert report is not None
    for name in rows:
        assert turned.module.state_dict()[name].equal(own[name].flip(0))
    same, report = session.for_classes({number: f"renamed{number}" for number in names})
    assert same is session
    assert report is None


def test_weights_of_a_file_find_their_classes(tmp_path: Path) -> None:
    session = tiny_session(tmp_path)
    file = session.save(tmp_path / "a.pt")
    turned = dict(enumerate(reversed(session.info.names.values())))
    other, _ = tiny_session(tmp_path, seed=1).for_classes(turned, seed=1)
    report = other.load_weights(file)
    assert report.classes == tuple(range(len(turned)))
    assert dict(other.info.names) == turned
    for name in session.architecture.class_tensors(session.module):
        assert other.module.state_dict()[name].equal(session.module.state_dict()[name].flip(0))


def test_a_shape_that_keeps_coming_is_computed_without_python(session: TorchSession, monkeypatch: Any) -> None:
    monkeypatch.setitem(running._USUAL, "cpu", 2)
    images = noise_images((1, 3, 64, 96))
    first = session.run(images)
    session.run(images)
    monkeypatch.setattr(torch.nn.Module, "__call__", None)  # of no layer
    for one, other in zip(session.run(images), first, strict=True):
        assert np.array_equal(one, other)


def test_a_model_in_other_hands_is_computed_layer_by_layer(session: TorchSession, monkeypatch: Any) -> None:
    """Whoever has the module may hang a function on a layer at any time."""
    monkeypatch.setitem(running._USUAL, "cpu", 1)
    images, seen = noise_images((1, 3, 64, 96)), []
    module = session.share_module()
    session.run(images)
    convolution = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda *_: seen.append(1))
    session.run(images)
    assert seen


def test_a_session_on_a_cpu_keeps_memory_for_the_next_image(session: TorchSession, monkeypatch: Any) -> None:
    asked: list[int] = []
    monkeypatch.setattr("segx_torch.session.enlarge_heap", lambda: asked.append(1))
    for _ in range(2):
        session.run(noise_images((1, 3, 64, 96)))
    assert asked == [1]
