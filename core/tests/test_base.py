"""What formats inherit: options of their own, refusals, versions, reading, shapes, outputs, errors."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError, ModelError, UsageError
from segx.flows.export import made_of
from segx.io import sidecar
from segx.options.schema import option
from segx.options.verbs import ExportOptions, SessionOptions
from segx.plugin.base import FormatBackend, FormatExporter, FormatSession, Graph, check_images, describe
from segx.plugin.jobs import ExportJob, ExportModule
from segx.plugin.specs import Tolerance, default_tolerances, lazy

if TYPE_CHECKING:
    from pathlib import Path

INFO = ArtifactInfo(names={0: "egg"}, imgsz=(64, 96), outputs=("rows", "protos"))
SOURCE = ExportModule(module=None, example=np.zeros((1, 3, 64, 96), np.float32), info=INFO, output_axes=({}, {}))


class PlainOptions(ExportOptions):
    """Options of the format."""

    half: bool = option(False, "smaller numbers")
    dynamic: bool = option(False, "open axes")
    level: int = option(2, "how much", ge=0, le=3)


class PlainExporter(FormatExporter[PlainOptions]):
    """Writes the info as JSON."""

    title, format, options = "Plain", "plain", PlainOptions

    def made_by(self, options: PlainOptions) -> tuple[str, ...]:
        return ("numpy",) if options.level else ()

    def _check(self, info: ArtifactInfo, options: PlainOptions) -> None:
        if options.level == 3:
            raise UsageError("level=3 is too much")

    def _export(self, source: Any, job: ExportJob, options: PlainOptions) -> ArtifactInfo | None:
        job.destination.write_text(json.dumps(job.info.to_metadata()))
        return job.info.replace(outputs=("other",)) if options.level == 1 else None


class PlainSession(FormatSession[Any]):
    """Calls what it is given."""

    runtime = "Plain 1.0"

    def _run(self, model: Any, images: Any) -> Any:
        return model(images)


class PlainBackend(FormatBackend):
    """Reads what the exporter wrote."""

    title, runtime = "Plain", "Plain 1.0"
    graph: Graph | None = None

    def _read(self, path: Path) -> tuple[dict[str, Any] | None, Graph | None]:
        return json.loads(path.read_bytes()), self.graph

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> PlainSession:
        if options.threads == 13:
            raise LookupError("no such thing\nand much more")
        return PlainSession(lambda images: [images], path=artifact.path, info=info, device="cpu")


def job(folder: Path, options: ExportOptions) -> ExportJob:
    return ExportJob(info=INFO, options=options, destination=folder / "m.plain", scratch=folder)


def session(run: Any, path: Path, **changes: Any) -> PlainSession:
    return PlainSession(run, path=path / "m.plain", info=INFO.replace(**changes), device="cpu")


def images(*shape: int) -> Any:
    return np.zeros(shape or (1, 3, 64, 96), np.float32)


# Exporters


def test_plain_options_are_taken_as_the_formats_own(tmp_path: Path) -> None:
    exporter = PlainExporter()
    exporter.check(INFO, ExportOptions(batch=2))
    done = exporter.export(SOURCE, job(tmp_path, ExportOptions()))
    assert done.versions == {"numpy": np.__version__}
    written = ArtifactInfo.from_metadata(json.loads((tmp_path / "m.plain").read_text()))
    assert written == done, "what made it is in the info before it is written"


def test_a_file_that_turned_out_otherwise_says_so(tmp_path: Path) -> None:
    done = PlainExporter().export(SOURCE, job(tmp_path, PlainOptions(level=1)))
    assert (done.outputs, set(done.versions)) == (("other",), {"numpy"})
    assert PlainExporter().export(SOURCE, job(tmp_path, PlainOptions(level=0))).versions == {}


def test_contradictions_are_refused_for_every_format() -> None:
    PlainExporter().check(INFO, PlainOptions(dynamic=True, batch=2))  # it is traced with two, and takes any number
    with pytest.raises(UsageError, match="level=3 is too much"):
        PlainExporter().check(INFO, PlainOptions(level=3))


def test_another_source_is_refused(tmp_path: Path) -> None:
    other = Artifact(path=tmp_path / "m.pb", format="pb")
    with pytest.raises(ExportError, match=r"Plain is made from a model, not from .*m\.pb") as refusal:
        PlainExporter().export(other, job(tmp_path, PlainOptions()))
    assert "format=plain" in refusal.value.hint

    class FromPb(PlainExporter):
        source = "pb@acme"

    FromPb().export(other, job(tmp_path, PlainOptions()))
    with pytest.raises(ExportError, match="made from format 'pb', not from a model"):
        FromPb().export(SOURCE, job(tmp_path, PlainOptions()))


# Reading


def test_the_graph_goes_before_the_metadata(tmp_path: Path) -> None:
    graph = Graph(input=("n", 3, 32, None), outputs=("a",), precision="fp16")
    info = describe(INFO.to_metadata(), tmp_path / "m", graph=graph)
    assert (info.imgsz, info.batch, info.dynamic, info.outputs) == ((32, 96), 1, {"batch", "width"}, ("a",))
    assert info.precision == "fp32", "what segx wrote says the precision itself"
    foreign = {"task": "segment", "names": {0: "egg"}}
    assert describe(foreign, tmp_path / "m", graph=graph).precision == "fp16"
    with pytest.raises(ModelError, match="its graph cannot be used"):
        describe(foreign, tmp_path / "m", graph=Graph(input=(0, 3, 32, 32)))


def test_metadata_beside_are_taken_where_none_are_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.plain"
    path.write_text("{}")
    artifact = Artifact(path=path, format="plain")
    with pytest.raises(ModelError, match="carries no metadata") as refusal:
        PlainBackend().read_info(artifact)
    assert "m.plain.segx.json" in refusal.value.hint
    sidecar.write(path, INFO)
    assert PlainBackend().read_info(artifact) == INFO


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"{", "damaged or no Plain model"), (None, "cannot be read")]
)
def test_what_cannot_be_read_is_a_model_error_of_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "m.plain"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as refusal:
        PlainBackend().open(Artifact(path=path, format="plain"), SessionOptions())
    assert str(path) in refusal.value.message


class FolderBackend(PlainBackend):
    """Reads a folder that says nothing of itself."""

    def _read(self, path: Path) -> tuple[dict[str, Any] | None, Graph | None]:
        return None, self.graph


def test_a_folder_is_what_its_metadata_list(tmp_path: Path) -> None:
    folder = tmp_path / "m_plain"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"123456")
    sidecar.write(folder, INFO.replace(files=made_of(folder)))
    artifact = Artifact(path=folder, format="plain")
    FolderBackend().read_info(artifact).check_files(folder, contents=True)
    (folder / "weights.bin").write_bytes(b"123x56")
    info = FolderBackend().read_info(artifact)
    with pytest.raises(ModelError, match=r"m_plain: weights\.bin in it is damaged"):
        info.check_files(folder, contents=True)
    (folder / "weights.bin").write_bytes(b"123")
    with pytest.raises(ModelError, match=r"weights\.bin in it has 3 bytes, not 6"):
        FolderBackend().open(artifact, SessionOptions())
    (folder / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin in it cannot be read"):
        FolderBackend().open(artifact, SessionOptions())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="such files are of other systems")
def test_pipes_and_devices_in_a_folder_are_refused_and_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "m_plain"
    (folder / "variables").mkdir(parents=True)
    sidecar.write(folder, INFO)
    for name, place in (("pipe", "weights.bin"), ("device", "variables/weights.bin")):
        if name == "pipe":
            os.mkfifo(folder / place)
        else:
            (folder / place).symlink_to("/dev/zero")
        with pytest.raises(ModelError, match=rf"weights\.bin in it is a {name}, not a regular file"):
            PlainBackend().read_info(Artifact(path=folder, format="plain"))
        (folder / place).unlink()
    for number in range(10_001):
        (folder / f"{number}").touch()
    with pytest.raises(ModelError, match="more than 10,000 files"):
        PlainBackend().read_info(Artifact(path=folder, format="plain"))


def test_half_and_a_runtime_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "m.plain"
    path.write_text(json.dumps(INFO.to_metadata()))
    artifact = Artifact(path=path, format="plain")
    with pytest.raises(UsageError, match=r"half=True: .* holds fp32 numbers") as refusal:
        PlainBackend().open(artifact, SessionOptions(half=True))
    assert "format=plain half=True" in refusal.value.hint
    with pytest.raises(ModelError, match=r"Plain 1\.0 cannot open it \(no such thing\)"):
        PlainBackend().open(artifact, SessionOptions(threads=13))


# Running


def test_a_session_is_given_contiguous_floats_and_gives_floats(tmp_path: Path) -> None:
    seen = []

    def run(given: Any) -> Any:
        seen.append(given)
        return given[:, :1].astype(np.float64), given.astype(np.float16)

    view = np.zeros((1, 64, 96, 3), np.float64).transpose(0, 3, 1, 2)
    outputs = session(run, tmp_path).run(view)
    assert (seen[0].dtype, seen[0].flags.c_contiguous) == (np.float32, True)
    assert [output.dtype for output in outputs] == [np.float32, np.float32]


def test_outputs_by_name_are_put_in_order_and_others_reported(tmp_path: Path) -> None:
    given = {"protos": images(1, 1), "rows": images(1, 2)}
    assert [output.shape[1] for output in session(lambda _: given, tmp_path).run(images())] == [2, 1]
    with pytest.raises(ModelError, match=r"gave 2 outputs \(a, rows\); its metadata name rows, protos"):
        session(lambda _: {"a": images(), "rows": images()}, tmp_path).run(images())
    with pytest.raises(ModelError, match="gave 1 outputs"):
        session(lambda _: [images()], tmp_path).run(images())


def test_a_runtime_that_fails_and_a_closed_session(tmp_path: Path) -> None:
    def fail(_: Any) -> Any:
        raise MemoryError

    one = session(fail, tmp_path)
    with pytest.raises(ModelError, match=r"m\.plain: Plain 1\.0 failed \(MemoryError\)"):
        one.run(images())
    one.close()
    one.close()
    with pytest.raises(ModelError, match="closed"):
        one.run(images())


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 64, 96), (1, 1, 64, 96), (3, 64, 96), (0, 3, 64, 96)])
def test_another_shape_is_refused_with_what_is_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"m: takes images 1x3x64x96, got {'x'.join(map(str, shape))}") as refusal:
        check_images(shape, INFO, where="m")
    assert refusal.value.hint == "imgsz=64,96 batch=1"


def test_open_axes_take_whole_strides() -> None:
    info = INFO.replace(dynamic=frozenset({"batch", "width"}))
    check_images((7, 3, 64, 32), info, where="m")
    with pytest.raises(ModelError, match="takes images Nx3x64xW, got 1x3x32x32"):
        check_images((1, 3, 32, 32), info, where="m")
    with pytest.raises(ModelError, match="multiples of 32, got 64x33"):
        check_images((1, 3, 64, 33), info, where="m")


# Declaring


def test_what_is_lazy_is_imported_when_it_is_called_for() -> None:
    assert lazy("no_such_module:Thing") == lazy("no_such_module:Thing")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        lazy("no_such_module:Thing")()
    assert isinstance(lazy("segx.options.verbs:SessionOptions")(), SessionOptions), "of a class an instance"
    assert lazy("segx.plugin.base:describe")() is describe, "of a function itself"


def test_tolerances_are_tighter_the_more_exact_a_precision_is() -> None:
    full, half, whole = default_tolerances("fp32", "fp16", "int8").values()
    assert full.box < half.box < whole.box
    assert full.raw < half.raw < whole.raw
    assert half.typical_box is not None
    assert whole.typical_box is not None
    assert half.typical_box < whole.typical_box
    assert isinstance(full, Tolerance)
    with pytest.raises(KeyError):
        default_tolerances("w8a16")


class _Seen(FormatSession[Any]):
    runtime = "seen"

    def _run(self, model: Any, images: Any) -> list[Any]:
        model.append(images)
        return [np.zeros((len(images), 1), np.float32)]


@pytest.mark.parametrize("wanted", [False, True])
def test_a_session_gets_images_as_it_takes_them(wanted: bool, tmp_path: Path) -> None:
    """Whatever comes, float64 and turned round too."""
    seen: list[Any] = []
    session = _Seen(seen, path=tmp_path, info=ArtifactInfo(imgsz=(32, 64), outputs=("output0",)), device="cpu")
    session.channels_last = wanted
    last = np.random.default_rng(0).random((1, 32, 64, 3), np.float32).transpose(0, 3, 1, 2)
    for images in (last, last.copy(), last.astype(np.float64), last[:, ::-1]):
        session.run(images)
        np.testing.assert_array_equal(seen[-1], images.astype(np.float32))
        lies_last = seen[-1].transpose(0, 2, 3, 1).flags.c_contiguous
        assert seen[-1].flags.c_contiguous or (wanted and lies_last)
        assert seen[-1].dtype == np.float32
    assert np.shares_memory(seen[0], last) == wanted
