"""What every export format keeps: it refuses early, writes where it is told, and the file says what its source says."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import SegxError, UsageError
from segx.io import sidecar
from segx.ops.arrays import to_numpy
from segx.options.verbs import PRECISION_OPTIONS, ExportOptions, SessionOptions
from segx.plugin.catalog import full_name
from segx.plugin.jobs import ExportModule
from segx.plugin.registry import get_registry
from segx.plugin.specs import ExporterSpec, Tolerance
from segx.testing.models import (
    ending_of,
    export_file,
    export_options,
    export_with,
    finished,
    real_module,
    run_module,
    tiny_info,
    tiny_module,
    wanted_info,
)
from segx.testing.parity import RAW_TOLERANCE, assert_follows, assert_same_outputs
from segx.testing.plugin import PluginContract, load_or_skip
from segx.testing.scenes import noise_images

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.plugin.interfaces import Exporter, Session
    from segx.plugin.registry import Registry

_PRECISIONS = {precision: {option: True} for option, precision in PRECISION_OPTIONS.items()}

Settings = Mapping[str, Any]

_EXPORTS_AND_OPENS = """
    from pathlib import Path
    from segx.errors import MissingPluginError
    from segx.options.verbs import SessionOptions
    from segx.testing.models import export_file, tiny_info, tiny_module, wanted_info
    wanted = wanted_info(registry.exporters.get(sys.argv[2]), tiny_info())
    artifact, _ = export_file(sys.argv[2], Path(sys.argv[3]), tiny_module(wanted))
    try:
        spec = registry.backend_for(artifact.format)
        backend = registry.backends.load(spec)
    except MissingPluginError:
        pass
    else:
        backend.open(artifact, SessionOptions(device=spec.devices[0]))
"""


class ExporterContract(PluginContract, standard=True):
    """Tests of an export format; they write a model of five layers, and a tiny YOLOv8-seg.

    Attributes:
        name: The format's name.
        combinations: Options of the format to export with, beside none, ``dynamic``, ``batch`` and each precision.
        refused: Combinations of options that ``check`` has to refuse.
    """

    name: ClassVar[str]
    combinations: ClassVar[tuple[Settings, ...]] = ()
    refused: ClassVar[tuple[Settings, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test once for each combination of options."""
        if "settings" in metafunc.fixturenames:
            metafunc.parametrize("settings", self._settings(), ids=_words, scope="class")
        if "wrong" in metafunc.fixturenames:
            metafunc.parametrize("wrong", self.refused, ids=_words, scope="class")

    def _settings(self) -> list[Settings]:
        spec = get_registry().exporters.get(f"{self.name}@{self.distribution}")
        known = spec.options.names()
        standard: list[Settings] = [{}, {"batch": 2}]
        if wanted_info(spec, tiny_info(dynamic=True), dynamic=True).dynamic:
            standard.append({"dynamic": True})
        standard += [_PRECISIONS[precision] for precision in spec.precisions[1:] if precision in _PRECISIONS]
        return [settings for settings in (*standard, *self.combinations) if settings.keys() <= known]

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, registry: Registry) -> ExporterSpec:
        """The format's declaration."""
        return registry.exporters.get(f"{cls.name}@{cls.distribution}")

    @pytest.fixture(scope="class")
    @classmethod
    def exporter(cls, registry: Registry, spec: ExporterSpec) -> Exporter:
        """The exporter, loaded; skips where what it requires is not installed."""
        for link in registry.export_chain(full_name(spec)):
            load_or_skip(registry, link)
        return cast("Exporter", load_or_skip(registry, spec))

    @pytest.fixture(scope="class")
    @classmethod
    def module(cls) -> ExportModule:
        """The model to export; its ``info`` holds something in every field."""
        pytest.importorskip("torch", reason="the source of an export is a torch module")
        return tiny_module(tiny_info())

    @pytest.fixture(scope="class")
    @classmethod
    def exported(
        cls,
        exporter: Exporter,
        spec: ExporterSpec,
        settings: Settings,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> tuple[ExportModule, Artifact, ArtifactInfo]:
        """The model, written once for each combination of options."""
        pytest.importorskip("torch", reason="the source of an export is a torch module")
        module = tiny_module(_info_for(spec, settings))
        _skip_refused(exporter, spec, module, settings)
        artifact, info = export_file(full_name(spec), tmp_path_factory.mktemp("exported"), module, **settings)
        return module, artifact, info

    @pytest.fixture
    def work(self, spec: ExporterSpec, exporter: Exporter, tmp_path: Path) -> tuple[str, tuple[str, ...]]:  # noqa: ARG002 - skips
        """Write a model and open it."""
        pytest.importorskip("torch", reason="the source of an export is a torch module")
        (tmp_path / "exported").mkdir()
        return _EXPORTS_AND_OPENS, (full_name(spec), str(tmp_path / "exported"))

    def test_declaration_is_complete(self, spec: ExporterSpec, registry: Registry) -> None:
        """Suffix, precisions, a tolerance for each, and a chain that begins at the model."""
        assert spec.suffix[:1] in {".", "_"}
        assert registry.format_of(f"model{spec.suffix}") == spec.name, "the suffix leads back to the format"
        assert spec.precisions
        assert set(spec.tolerance) == set(spec.precisions), "a tolerance for each precision, for nothing else"
        assert all(isinstance(tolerance, Tolerance) for tolerance in spec.tolerance.values())
        assert registry.export_chain(full_name(spec))[0].source == "model"
        tested = {export_options(spec, **settings).precision for settings in self._settings()}
        assert tested == set(spec.precisions), "combinations with each precision, so that each is tested"
        assert export_options(spec).precision == spec.precisions[0], "the first precision is the default"

    def test_options_are_typed_frozen_and_explained(self, spec: ExporterSpec) -> None:
        """They inherit the common ones, have defaults and one line of help each, and refuse what they do not know."""
        assert issubclass(spec.options, ExportOptions)
        options = spec.options()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, "batch", 2)  # noqa: B010 - the type checker refuses the plain form
        for item in spec.options.describe():
            assert item.help, f"option {item.name} has no help"
            assert not item.help.endswith(".")
        with pytest.raises(UsageError, match="not known"):
            spec.options.parse({"no_such_option": 1})

    def test_check_takes_the_defaults(self, exporter: Exporter, spec: ExporterSpec) -> None:
        """Nobody has to give an option."""
        exporter.check(tiny_info(), export_options(spec))

    def test_check_refuses_before_any_work(self, exporter: Exporter, spec: ExporterSpec, wrong: Settings) -> None:
        """A combination that cannot work is a usage error, told at once."""
        started = time.perf_counter()
        with pytest.raises(UsageError) as refusal:
            exporter.check(_info_for(spec, wrong), export_options(spec, **wrong))
        assert time.perf_counter() - started < 2
        assert any(option in str(refusal.value) for option in wrong), "the error names the option"

    @pytest.mark.usefixtures("exporter")
    def test_begins_at_a_finished_file(self, spec: ExporterSpec, tmp_path: Path) -> None:
        """The file that it is made from will do in place of the model, and decides the size."""
        from segx.flows.export import export

        if spec.source == "model":
            pytest.skip(f"format {spec.name} is made from the model itself")
        pytest.importorskip("torch", reason="the source of an export is a torch module")
        module = tiny_module(_info_for(spec, {}))
        source, _, _ = _last_source(spec, module, tmp_path)
        assert not isinstance(source, ExportModule)
        _backend(get_registry(), source)
        options = {"output": str(tmp_path / f"again{spec.suffix}"), "verify": False}
        done = export(source, full_name(spec), options)
        assert done.info.imgsz == module.info.imgsz, "which nobody has asked for again"
        assert (done.info.names, done.info.head) == (module.info.names, module.info.head)
        _assert_says_the_same(get_registry(), done.artifact, module)

    def test_info_arrives(
        self,
        exported: tuple[ExportModule, Artifact, ArtifactInfo],
        spec: ExporterSpec,
        registry: Registry,
        settings: Settings,
    ) -> None:
        """What was to travel with the file is what a backend reads from it."""
        module, artifact, info = exported
        assert info.names == module.info.names
        assert info.precision == export_options(spec, **settings).precision
        assert info.outputs
        backend = _backend(registry, artifact)
        read = registry.backends.load(backend).read_info(artifact)
        for field in dataclasses.fields(info):
            assert getattr(read, field.name) == getattr(info, field.name), f"info.{field.name}"

    def test_info_can_be_replaced(
        self,
        exporter: Exporter,
        spec: ExporterSpec,
        exported: tuple[ExportModule, Artifact, ArtifactInfo],
        registry: Registry,
    ) -> None:
        """Core adds what verification measured to the finished file, and the model in it stays whole."""
        from segx.artifact import Parity

        _, artifact, info = exported
        opener = _backend(registry, artifact)
        backend, options = registry.backends.load(opener), SessionOptions(device=opener.devices[0])
        parity = Parity(images=1, raw={"output0": 1e-5}, box=0.25, score=0.125, mask_iou=0.5, objects=3, matched=1.0)
        changed = info.replace(parity=parity)
        if spec.metadata != "embedded":  # the model itself is not touched: no need to run it
            before = _contents(artifact)
            sidecar.write(artifact.path, changed)
            assert backend.read_info(artifact).parity == parity
            assert _contents(artifact) == before
            return
        images = _images(info)
        outputs = _run_once(backend.open(artifact, options), images)
        exporter.write_info(artifact.path, changed)
        assert backend.read_info(artifact).parity == parity
        assert_same_outputs(_run_once(backend.open(artifact, options), images), outputs, names=info.outputs)

    def test_says_what_its_source_says(
        self, exported: tuple[ExportModule, Artifact, ArtifactInfo], registry: Registry
    ) -> None:
        """Opened with the installed backend, the raw outputs are the source model's.

        Of what is quantised they are not the same numbers, but they follow what the model sees as the source's do.
        """
        module, artifact, _ = exported
        _assert_says_the_same(registry, artifact, module)

    def test_writes_a_real_architecture_and_nothing_else(
        self,
        exporter: Exporter,
        spec: ExporterSpec,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """A tiny YOLOv8-seg, with all of its blocks, comes out the same; five layers where no architecture is there.

        The destination is there afterwards, nothing else is, and the source and its folder are as they were. Standard
        output is the caller's: programs read the result's path, or JSON, from it.
        """
        pytest.importorskip("torch", reason="the source of an export is a torch module")
        try:
            module = real_module(_info_for(spec, {}))
        except SegxError:
            module = tiny_module(_info_for(spec, {}))
        exporter.check(module.info, export_options(spec))
        work, elsewhere, beside = (tmp_path / name for name in ("work", "elsewhere", "beside"))
        for folder in (work, elsewhere, beside):
            folder.mkdir()
        source, came, options = _last_source(spec, module, beside)
        before, listing = _state(source), _listing(beside)
        monkeypatch.chdir(elsewhere)
        destination = work / f".tiny.part{spec.suffix}"
        capfd.readouterr()
        info = export_with(exporter, source, ending_of(spec, came, options), options, destination)
        assert destination.exists()
        assert [item.name for item in work.iterdir()] == [destination.name], "nothing is left beside it"
        assert not list(elsewhere.iterdir()), "nothing is written into the working directory"
        assert _state(source) == before, "the source is unchanged"
        assert _listing(beside) == listing, "nothing is left beside the source"
        assert capfd.readouterr().out == "", "nothing is written on standard output"
        artifact = Artifact(path=destination, format=spec.name)
        info = finished(exporter, spec, destination, info)
        if info.precision in RAW_TOLERANCE:
            _assert_says_the_same(get_registry(), artifact, module)
            return
        # In 8 bits, what weights say that nobody has trained is fainter than a step: the blocks are there, or not.
        images = noise_images((info.batch, 3, *info.imgsz), seed=3)
        got = _run_once(_open(get_registry(), artifact), images)
        assert [output.shape for output in got] == [output.shape for output in run_module(module, images)]
        assert all(np.isfinite(output).all() for output in got)


def _words(settings: Settings) -> str:
    return ",".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def _info_for(spec: ExporterSpec, settings: Settings) -> ArtifactInfo:
    info = tiny_info(batch=settings.get("batch", 1), dynamic=bool(settings.get("dynamic")))
    return wanted_info(spec, info, **settings)


def _skip_refused(exporter: Exporter, spec: ExporterSpec, module: ExportModule, settings: Settings) -> None:
    try:
        exporter.check(module.info, export_options(spec, **settings))
    except UsageError as error:
        pytest.skip(f"refused: {error.message}")


def _backend(registry: Registry, artifact: Artifact) -> Any:
    from segx.errors import MissingPluginError

    try:
        return registry.backend_for(artifact.format)
    except MissingPluginError as error:
        pytest.skip(error.message)


def _open(registry: Registry, artifact: Artifact) -> Session:
    spec = _backend(registry, artifact)
    return registry.backends.load(spec).open(artifact, SessionOptions(device=spec.devices[0]))


def _last_source(
    spec: ExporterSpec, module: ExportModule, folder: Path
) -> tuple[ExportModule | Artifact, ArtifactInfo, ExportOptions]:
    """Return what a format is made from, as an export with no options makes it, its info, and the format's options."""
    from segx.flows.export import settled

    chosen = export_options(spec, imgsz=module.info.imgsz)
    if spec.source == "model":
        return module, module.info, chosen
    chain = get_registry().export_chain(full_name(spec))
    before = settled(chain, chosen)[-2]
    given = {name: value for name, value in before.as_dict().items() if name not in {"output", "device", "imgsz"}}
    return *export_file(full_name(chain[-2]), folder, module, **given), chosen


def _assert_says_the_same(registry: Registry, artifact: Artifact, module: ExportModule) -> None:
    """Fail when a file, opened with the installed backend, does not say what its source says."""
    session = _open(registry, artifact)
    info = session.info
    try:
        if info.precision not in RAW_TOLERANCE:
            images = [
                noise_images((info.batch, 3, *info.imgsz), seed=seed) * np.float32((seed + 1) / 4) for seed in range(4)
            ]
            got = [[to_numpy(output).copy() for output in session.run(one)] for one in images]
            assert_follows(got, [run_module(module, one) for one in images], names=info.outputs)
            return
        for shaped in _shapes(info):
            wanted = run_module(module, shaped)
            assert_same_outputs(session.run(shaped), wanted, names=info.outputs, precision=info.precision)
    finally:
        session.close()


def _listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _run_once(session: Session, images: Any) -> list[Any]:
    try:
        return [np.array(output) for output in session.run(images)]
    finally:
        session.close()


def _images(info: ArtifactInfo) -> Any:
    return noise_images((info.batch, 3, *info.imgsz), seed=1)


def _shapes(info: ArtifactInfo) -> list[Any]:
    """Return images of the shape the file was made for, and of others where it takes them."""
    height, width = info.imgsz
    sizes = [(info.batch, height, width)]
    if "batch" in info.dynamic:
        sizes.append((3, height, width))
    if {"height", "width"} <= info.dynamic:
        two = 2 if "batch" in info.dynamic else info.batch
        sizes += [(info.batch, width, height), (two, height + info.stride, width + 2 * info.stride)]
    return [noise_images((count, 3, h, w), seed=index) for index, (count, h, w) in enumerate(sizes)]


def _contents(artifact: Artifact) -> dict[str, bytes]:
    """Return what is in the files of a model, without the one that describes it."""
    root, described = artifact.path, sidecar.location(artifact.path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return {str(file): file.read_bytes() for file in files if file.is_file() and file != described}


def _state(source: ExportModule | Artifact) -> str:
    """Return a hash of a source, that any change would change."""
    digest = hashlib.sha256()
    if hasattr(source, "path"):
        root = source.path
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for file in (file for file in files if file.is_file()):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()
    for name, tensor in source.module.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{tensor.device}".encode() + tensor.cpu().numpy().tobytes())
    digest.update(str(source.module.training).encode())
    return digest.hexdigest()
