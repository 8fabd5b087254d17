"""What every runtime keeps: it says what a file is, runs it, refuses what it cannot run, and leaves the file alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ModelError, SegxError, UsageError
from segx.io import sidecar
from segx.ops.arrays import to_numpy
from segx.options.verbs import PRECISION_OPTIONS, SessionOptions
from segx.plugin.catalog import full_name
from segx.plugin.requirements import ALTERNATIVE, modules
from segx.runtime import device_kind
from segx.testing.damage import changed, damaged, generator, tries
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, export_options, tiny_info, tiny_module, wanted_info
from segx.testing.parity import assert_same_outputs, run_twice
from segx.testing.plugin import PluginContract, load_or_skip
from segx.testing.scenes import noise_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from segx.plugin.interfaces import Backend, Session
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec
    from segx.structures.types import Images

_INFO_WITHOUT_RUNTIME = """
    import json, sys
    from pathlib import Path
    from segx.artifact import Artifact
    from segx.plugin.registry import get_registry
    name, kind, path = sys.argv[1:]
    registry = get_registry()
    info = registry.backends.load(name).read_info(Artifact(path=Path(path), format=kind))
    print(json.dumps(info.variant))
"""

_OPENS_AND_RUNS = """
    import numpy as np
    from pathlib import Path
    from segx.artifact import Artifact
    from segx.options.verbs import SessionOptions
    _, name, kind, path = sys.argv[1:]
    backend = registry.backends.load(name)
    options = SessionOptions(device=registry.backends.get(name).devices[0])
    session = backend.open(Artifact(path=Path(path), format=kind), options)
    session.run(np.zeros((session.info.batch, 3, *session.info.imgsz), np.float32))
"""


_ALONE = """
    import json, sys
    from pathlib import Path
    import numpy as np
    name, kind, path, stands_on_torch = sys.argv[1:]
    if not json.loads(stands_on_torch):
        sys.modules["torch"] = None
    from segx.artifact import Artifact
    from segx.options.verbs import SessionOptions
    from segx.plugin.registry import get_registry
    registry = get_registry()
    backend = registry.backends.load(name)
    artifact = Artifact(path=Path(path), format=kind)
    session = backend.open(artifact, SessionOptions(device=registry.backends.get(name).devices[0]))
    outputs = session.run(np.zeros((session.info.batch, 3, *session.info.imgsz), np.float32))
    imported = [name for name, module in sys.modules.items() if module is not None]
    print(json.dumps({"shapes": [list(np.asarray(output).shape) for output in outputs], "imported": imported}))
"""
_PRECISIONS: tuple[dict[str, bool], ...] = ({}, *({option: True} for option in PRECISION_OPTIONS))


class BackendContract(PluginContract, standard=True):
    """Tests of a runtime, with one of the formats it opens.

    The files are written by the installed exporter of the format. For a runtime whose exporter may be absent, override
    the fixtures ``artifact`` and ``dynamic_artifact``; that of :attr:`opens_dynamic` may return None.

    Attributes:
        name: The backend's name.
        format: The format to open.
        device: Where it is opened: a word of the backend's ``devices``; one that has no CPU says another.
    """

    name: ClassVar[str]
    format: ClassVar[str]
    device: ClassVar[str] = "cpu"

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, registry: Registry) -> BackendSpec:
        """The backend's declaration."""
        return registry.backends.get(f"{cls.name}@{cls.distribution}")

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, registry: Registry, spec: BackendSpec) -> Backend:
        """The backend, loaded; skips where what it requires is not installed."""
        return cast("Backend", load_or_skip(registry, spec))

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """A model of one image of 64x96 that says all there is to say of itself."""
        return _written(registry, cls.format, tmp_path_factory.mktemp("model"), dynamic=False)

    @pytest.fixture(scope="class")
    @classmethod
    def dynamic_artifact(cls, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Artifact | None:
        """The same open in batch, height and width, or None where the format has no such thing."""
        return _written(registry, cls.format, tmp_path_factory.mktemp("dynamic"), dynamic=True)

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, backend: Backend, artifact: Artifact) -> Iterator[Session]:
        """The model, open: once, for a runtime with a process of its own takes seconds to begin.

        So what one test has asked for, and been refused, must not matter to the next.
        """
        session = backend.open(artifact, SessionOptions(device=cls.device))
        yield session
        session.close()

    @pytest.fixture(scope="class")
    @classmethod
    def stands_on_torch(cls, spec: BackendSpec) -> bool:
        """Whether it cannot run without torch."""
        requirements = [*spec.requires, *(metadata.requires(cls.distribution) or ())]
        alternatives = [text for entry in requirements for text in entry.split(ALTERNATIVE)]
        return "torch" in {Requirement(text).name for text in alternatives}

    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, spec: BackendSpec, backend: Backend, artifact: Artifact, stands_on_torch: bool) -> dict[str, Any]:  # noqa: ARG003, FBT001 - skips; a fixture
        """What a fresh interpreter has imported that opened the model and ran it, and the shapes it got.

        There is no torch there, but for what stands on it.
        """
        arguments = (full_name(spec), cls.format, str(artifact.path), json.dumps(stands_on_torch))
        return cast("dict[str, Any]", run_fresh(_ALONE, *arguments, warnings="default"))

    @pytest.fixture
    def work(self, spec: BackendSpec, backend: Backend, artifact: Artifact) -> tuple[str, tuple[str, ...]]:  # noqa: ARG002 - skips
        """Open the model and run it."""
        return _OPENS_AND_RUNS, (full_name(spec), self.format, str(artifact.path))

    def test_declaration_is_complete(self, spec: BackendSpec, registry: Registry) -> None:
        """Formats with suffixes that lead back to them, and devices."""
        assert self.format in spec.formats
        for kind, suffixes in spec.formats.items():
            assert suffixes, f"format {kind} has no suffix"
            for suffix in suffixes:
                assert suffix[:1] in {".", "_"}
                assert registry.format_of(f"model{suffix.upper()}") == kind, "whatever the case"
        assert spec.devices
        assert all(device_kind(device) == device for device in spec.devices), "kinds, in small letters: no gpu:1"

    def test_is_chosen_by_name(self, spec: BackendSpec, backend: Backend, registry: Registry) -> None:
        """Whoever names it gets it, for the formats it runs and no other."""
        name = full_name(spec)
        assert registry.backend_for(self.format, name=name) == spec
        assert registry.backends.load(spec) is backend
        with pytest.raises(UsageError, match="does not run"):
            registry.backend_for("no-such-format", name=name)

    def test_info_is_known_without_running(
        self, spec: BackendSpec, backend: Backend, artifact: Artifact, session: Session
    ) -> None:
        """``read_info`` and an open session say the same, and the first says it alone in a fresh interpreter."""
        info = backend.read_info(artifact)
        assert isinstance(info, ArtifactInfo)
        assert info.task
        assert info.names
        assert info.outputs
        assert session.info == info
        assert run_fresh(_INFO_WITHOUT_RUNTIME, full_name(spec), self.format, str(artifact.path)) == info.variant

    def test_runs(self, session: Session) -> None:
        """One array for each named output, finite floats, the batch in front."""
        info = session.info
        assert device_kind(session.device) == self.device
        images = noise_images((info.batch, 3, *info.imgsz))
        before = images.copy()
        outputs = [to_numpy(output) for output in session.run(images)]
        assert len(outputs) == len(info.outputs)
        for name, output in zip(info.outputs, outputs, strict=True):
            assert np.issubdtype(output.dtype, np.floating), f"{name} is {output.dtype}"
            assert output.shape[0] == info.batch, f"{name} has shape {output.shape}"
            assert np.isfinite(output).all(), name
        np.testing.assert_array_equal(images, before, err_msg="the images given are the caller's")

    def test_outputs_depend_on_the_images_alone(self, session: Session) -> None:
        """The same images give the same outputs, others give others, and no output is overwritten by the next run."""
        info = session.info
        images, others = noise_images((info.batch, 3, *info.imgsz)), noise_images((info.batch, 3, *info.imgsz), seed=1)
        kept = session.run(images)
        copies = [to_numpy(output).copy() for output in kept]
        different = [to_numpy(output).copy() for output in session.run(others)]
        for output, copy in zip(kept, copies, strict=True):
            np.testing.assert_array_equal(to_numpy(output), copy, err_msg="a later run changed an earlier output")
        assert any(not np.array_equal(a, b) for a, b in zip(copies, different, strict=True))
        first, second = run_twice(session, images)
        assert_same_outputs(first, copies, names=info.outputs)
        assert_same_outputs(second, copies, names=info.outputs)

    def test_runs_side_by_side_where_it_says_so(self, spec: BackendSpec, session: Session) -> None:
        """A ``concurrent`` runtime gives each thread the outputs of its own images."""
        if not spec.concurrent:
            pytest.skip(f"backend {spec.name} runs one batch at a time")
        info = session.info
        batches = [noise_images((info.batch, 3, *info.imgsz), seed=seed) for seed in range(12)]
        alone = [[to_numpy(output).copy() for output in session.run(images)] for images in batches]
        with ThreadPoolExecutor(max_workers=4) as pool:
            together = list(pool.map(session.run, batches))
        for got, wanted in zip(together, alone, strict=True):
            assert_same_outputs(got, wanted, names=info.outputs)

    def test_takes_images_however_they_lie_in_memory(self, session: Session) -> None:
        """A view with other strides, and one that may not be written to, give what a plain array gives."""
        info = session.info
        images = noise_images((info.batch, 3, *info.imgsz))
        plain = [to_numpy(output).copy() for output in session.run(images)]
        view = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        view.flags.writeable = False
        assert_same_outputs(session.run(view), plain, names=info.outputs)

    @pytest.mark.parametrize("shape", [(1, 1, 64, 96), (3, 64, 96), (1, 64, 96, 3), (1, 3, 65, 97), (0, 3, 64, 96)])
    def test_refuses_images_of_another_shape(self, session: Session, shape: tuple[int, ...]) -> None:
        """An error that says what came and what is taken, not a wrong answer or a crash."""
        with pytest.raises(ModelError) as refusal:
            session.run(noise_images(shape))
        assert str(shape[-1]) in str(refusal.value)

    def test_refuses_another_size_where_it_is_fixed(self, session: Session) -> None:
        """A static model is not run with a batch or a size it was not made for."""
        info = session.info
        height, width = info.imgsz
        wrong = []
        if "batch" not in info.dynamic:
            wrong.append((info.batch + 1, 3, height, width))
        if "height" not in info.dynamic:
            wrong.append((info.batch, 3, height + info.stride, width))
        if "width" not in info.dynamic:
            wrong.append((info.batch, 3, height, width + info.stride))
        for shape in wrong:
            with pytest.raises(ModelError):
                session.run(noise_images(shape))

    def test_takes_any_size_where_it_is_dynamic(self, backend: Backend, dynamic_artifact: Artifact | None) -> None:
        """A dynamic model runs other batches and sizes, and each image's result is its own."""
        if dynamic_artifact is None:
            pytest.skip(f"format {self.format} has no dynamic axes")
        session = backend.open(dynamic_artifact, SessionOptions(device=self.device))
        info = session.info
        height, width = info.imgsz
        batch = (
            noise_images((3, 3, height, width))
            if "batch" in info.dynamic
            else noise_images((info.batch, 3, height, width))
        )
        together = [to_numpy(output) for output in session.run(batch)]
        if "batch" in info.dynamic:
            alone = [to_numpy(output) for output in session.run(batch[1:2])]
            assert_same_outputs([output[1:2] for output in together], alone, names=info.outputs)
        if {"height", "width"} <= info.dynamic:
            larger = [
                to_numpy(o) for o in session.run(noise_images((1, 3, height + 2 * info.stride, width + info.stride)))
            ]
            assert any(a.shape[1:] != b.shape[1:] for a, b in zip(larger, together, strict=True))
        session.close()

    def test_threads_change_no_result(self, backend: Backend, artifact: Artifact, session: Session) -> None:
        """``threads=1`` is taken, and is about time only."""
        wanted = [to_numpy(output).copy() for output in session.run(_images(session))]
        single = backend.open(artifact, SessionOptions(device=self.device, threads=1, streams=1))
        assert_same_outputs(single.run(_images(single)), wanted, names=session.info.outputs)
        single.close()

    def test_streams_change_no_result(
        self, spec: BackendSpec, backend: Backend, artifact: Artifact, session: Session
    ) -> None:
        """A session that several threads will call gives each of them what one gets that is alone."""
        if not spec.concurrent:
            pytest.skip(f"backend {spec.name} runs one batch at a time")
        batches = [noise_images(_images(session).shape, seed=seed) for seed in range(6)]
        wanted = [[to_numpy(output).copy() for output in session.run(images)] for images in batches]
        several = backend.open(artifact, SessionOptions(device=self.device, threads=1, streams=2))
        with ThreadPoolExecutor(max_workers=2) as pool:
            for got, expected in zip(pool.map(several.run, batches), wanted, strict=True):
                assert_same_outputs(got, expected, names=session.info.outputs)
        several.close()

    def test_runs_every_precision(
        self, spec: BackendSpec, backend: Backend, registry: Registry, tmp_path: Path
    ) -> None:
        """Whatever numbers a file holds: float32 images go in, finite float32 outputs come out, the same each time.

        A runtime that others go before, and that lacks what a file uses, may say so when it is opened.
        """
        written = list(_in_each_precision(registry, self.format, tmp_path))
        if not written:
            pytest.skip(f"nothing here writes format {self.format!r} in several precisions")
        for precision, artifact in written:
            try:
                session = backend.open(artifact, SessionOptions(device=self.device))
            except ModelError:
                if registry.backend_for(self.format) == spec:
                    raise
                continue
            assert session.info.precision == precision
            first, second = run_twice(session, _images(session))
            for name, output in zip(session.info.outputs, first, strict=True):
                assert output.dtype == np.float32, f"{precision}: {name} is {output.dtype}"
                assert np.isfinite(output).all(), f"{precision}: {name}"
            assert_same_outputs(second, first, names=session.info.outputs)
            session.close()

    def test_stays_apart(self, spec: BackendSpec, request: pytest.FixtureRequest) -> None:
        """The runtime of a backend that declares so is never imported beside what calls it."""
        if not spec.apart:
            pytest.skip(f"backend {spec.name} shares the process of whoever calls it")
        imported = request.getfixturevalue("alone")["imported"]
        wanted = {name for entry in spec.requires for name in modules(entry)} - {"numpy"}
        assert not wanted.intersection(imported)

    @pytest.mark.parametrize("device", ["warp9", "cuda:99"])
    def test_refuses_a_device_that_is_not_there(self, backend: Backend, artifact: Artifact, device: str) -> None:
        """Told as a usage error, never a silent fall back to the CPU."""
        with pytest.raises(UsageError) as refusal:
            backend.open(artifact, SessionOptions(device=device))
        assert device in str(refusal.value)

    def test_missing_file_is_reported(self, backend: Backend, artifact: Artifact, tmp_path: Path) -> None:
        """With its name, by both ways in."""
        absent = Artifact(path=tmp_path / f"absent{artifact.path.suffix}", format=artifact.format)
        for look in (backend.read_info, lambda a: backend.open(a, SessionOptions(device=self.device))):
            with pytest.raises(ModelError, match="absent"):
                look(absent)

    @pytest.mark.parametrize("damage", ["empty", "text", "half", "zeros"])
    def test_damaged_file_is_reported(self, backend: Backend, artifact: Artifact, tmp_path: Path, damage: str) -> None:
        """Opening never crashes and never gives a session of half a model; the error names the file."""
        if artifact.path.is_dir():
            _damage_in_folder(backend, artifact, tmp_path, damage)
            return
        whole = artifact.path.read_bytes()
        content = {
            "empty": b"",
            "text": b"this is no model\n" * 40,
            "half": whole[: len(whole) // 2],
            "zeros": whole[: len(whole) // 4] + bytes(len(whole) - len(whole) // 4),
        }[damage]
        path = tmp_path / f"damaged{artifact.path.suffix}"
        path.write_bytes(content)
        if sidecar.sidecar_path(artifact.path).exists():
            sidecar.sidecar_path(path).write_bytes(sidecar.sidecar_path(artifact.path).read_bytes())
        with pytest.raises(ModelError, match="damaged"):
            backend.open(Artifact(path=path, format=artifact.format), SessionOptions(device=self.device))

    def test_whatever_is_in_a_file_its_info_is_read_or_refused(
        self, backend: Backend, artifact: Artifact, tmp_path: Path
    ) -> None:
        """A model, or what lies beside it, changed at random places: its info, or one line that names it."""
        rng, refused = generator(f"{self.name} {self.format}"), list[str]()
        for _ in range(tries(30)):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            path = _copied(artifact.path, tmp_path / "copy")
            beside = sidecar.location(path)
            files = [*(item for item in path.rglob("*") if item.is_file()), *([] if path.is_dir() else [path])]
            if beside.exists() and rng.random() < 0.6:
                _change_metadata(path, rng)
            else:
                hit = rng.choice([*files, *([beside] if beside.exists() else [])])
                hit.write_bytes(damaged(hit.read_bytes(), rng))
            try:
                backend.read_info(Artifact(path=path, format=artifact.format))
            except ModelError as error:
                refused.append(error.message)
        assert refused
        assert all(artifact.path.name in words and "\n" not in words for words in refused)

    def test_leaves_the_model_and_other_sessions_as_they_are(
        self, backend: Backend, artifact: Artifact, session: Session
    ) -> None:
        """Opening, running and closing, twice even, write nothing into the model or beside it, and disturb nobody."""
        before = _listing(artifact.path.parent)
        backend.read_info(artifact)
        another = backend.open(artifact, SessionOptions(device=self.device))
        outputs = [to_numpy(output).copy() for output in another.run(_images(another))]
        another.close()
        another.close()
        assert_same_outputs(session.run(_images(session)), outputs, names=session.info.outputs)
        assert _listing(artifact.path.parent) == before

    def test_runs_without_torch(
        self,
        backend: Backend,
        artifact: Artifact,
        stands_on_torch: bool,  # noqa: FBT001 - a fixture
        request: pytest.FixtureRequest,
    ) -> None:
        """A runtime that does not depend on torch runs where there is none."""
        if stands_on_torch:
            pytest.skip(f"{self.distribution} stands on torch")
        assert len(request.getfixturevalue("alone")["shapes"]) == len(backend.read_info(artifact).outputs)


def _written(registry: Registry, kind: str, folder: Path, **options: bool) -> Artifact:
    """Return the tiny model as a file of the format, or skip where nothing here can write it."""
    pytest.importorskip("torch", reason="writing a model takes torch")
    try:
        chain = registry.export_chain(kind)
        for spec in chain:
            registry.require(spec)
    except SegxError as error:
        pytest.skip(f"nothing here writes format {kind!r}: {error.message}")
    dynamic = options.get("dynamic", False)
    info = wanted_info(chain[-1], tiny_info(dynamic=dynamic), **options)
    if dynamic and not info.dynamic:
        pytest.skip(f"format {kind!r} has no dynamic axes")
    return export_file(kind, folder, tiny_module(info), **options)[0]


def _in_each_precision(registry: Registry, kind: str, folder: Path) -> Iterator[tuple[str, Artifact]]:
    """Yield the tiny model in each precision that the format has beside others and that can be written here."""
    spec = registry.exporters.find(kind)
    if spec is None or len(spec.precisions) < 2:
        return
    for precision in spec.precisions:
        settings = next((s for s in _PRECISIONS if export_options(spec, **s).precision == precision), None)
        if settings is None or registry.unavailable(spec, precision=precision) is not None:
            continue
        place = folder / precision
        place.mkdir()
        try:
            yield precision, _written(registry, kind, place, **settings)
        except UsageError:  # such as half precision where there is no GPU
            continue


def _damage_in_folder(backend: Backend, artifact: Artifact, folder: Path, damage: str) -> None:
    """Damage each file of a folder in turn: what is missing or cut is refused, what is changed is found."""
    info = backend.read_info(artifact)
    assert info.files, "core lists what a folder is made of"
    for name in info.files:
        copy = folder / name.replace("/", "-") / f"damaged{artifact.path.name}"
        shutil.copytree(artifact.path, copy)
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2] if damage != "zeros" else bytes(len(content)))
        with pytest.raises(ModelError, match="damaged"):
            backend.read_info(Artifact(path=copy, format=artifact.format)).check_files(copy, contents=True)


def _copied(model: Path, folder: Path) -> Path:
    """Return a copy of a model, with what lies beside it."""
    folder.mkdir()
    path = folder / model.name
    if model.is_dir():
        shutil.copytree(model, path)
        return path
    for file in (model, sidecar.sidecar_path(model)):
        if file.exists():
            shutil.copy(file, folder)
    return path


def _change_metadata(path: Path, rng: Random) -> None:
    """Change the info that lies in a folder or beside a file."""
    place = sidecar.location(path)
    document = changed(sidecar.read_metadata(path), rng)
    dumped = json.dumps(document) if place.suffix == ".json" else yaml.safe_dump(document, allow_unicode=True)
    place.write_text(dumped, encoding="utf-8", errors="replace")


def _images(session: Session) -> Images:
    return noise_images((session.info.batch, 3, *session.info.imgsz))


def _listing(folder: Path) -> dict[str, str]:
    return {
        str(item.relative_to(folder)): hashlib.sha256(item.read_bytes()).hexdigest()
        for item in sorted(folder.rglob("*"))
        if item.is_file()
    }
