"""A model and its open sessions: its file is read once, a session opened once, whichever thread asks first."""

from __future__ import annotations

import functools
import logging
import os
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from segx.artifact import Artifact
from segx.errors import MissingModelError, ModelError, UsageError, WrongTypeError, version_or_typo
from segx.io.paths import expanded
from segx.options.verbs import SessionOptions

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx.plugin.fastest import Choice
    from segx.plugin.interfaces import Architecture, Session
    from segx.plugin.jobs import ModelConfig
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec
    from segx.plugin.training import ModelBackend, ModelSession
    from segx.structures.types import Array, Images

logger = logging.getLogger(__name__)

MODEL_FORMAT = "pt"
"""The format whose backends build, change and save models."""


_ON_GPU = 2
"""Batches side by side on a GPU: it computes one while the other is on its way there or back."""


class ModelDefinition(NamedTuple):
    """A model that has no weights yet: its configuration, and who builds it."""

    config: ModelConfig
    architecture: Architecture


class Sessions:
    """The open sessions of one model, each opened when it is first asked for.

    Args:
        origin: Where the model comes from.
        given: What the user named as model.
        registry: The plugins.

    Attributes:
        info: What is known of the model.
        device: Where it ran last; None when it has not run yet.
        changed: Its weights are in memory only.
    """

    def __init__(self, origin: Artifact | ModelDefinition, given: str, registry: Registry) -> None:
        self.info: ArtifactInfo
        self.device: str | None = None
        self._given = given
        self._registry = registry
        self._origin = origin
        self._open: dict[tuple[SessionOptions, str | None], Session] = {}
        self._lock = threading.RLock()
        self._choices: dict[str | None, Choice | None] = {}
        self._shared: ModelSession | None = None
        self.changed = False
        if isinstance(origin, ModelDefinition):
            self.info = origin.architecture.info(origin.config)
        else:
            self.info = registry.backends.load(registry.backend_for(origin.format)).read_info(origin)
        self._names = dict(self.info.names)

    @property
    def artifact(self) -> Artifact | None:
        """The file that holds the model as it is; None while its weights, or names, are in memory only."""
        self._heed()
        if self.renamed and self._format == MODEL_FORMAT and not self.changed:
            self.keep_only(self.model("renamed"))
        return self._file

    @property
    def renamed(self) -> bool:
        """Whether classes have other names than when the model was opened."""
        return self.info.names != self._names

    @property
    def _file(self) -> Artifact | None:
        return None if self.changed or isinstance(self._origin, ModelDefinition) else self._origin

    @property
    def path(self) -> Path | None:
        """The file the model came from, or None for a new one."""
        return None if isinstance(self._origin, ModelDefinition) else self._origin.path

    def get(self, how: SessionOptions, backend: str | None = None) -> Session:
        """Return an open model, the same one for the same options."""
        with self._lock:
            self._heed()
            session = self._open.get((how, backend))
            if session is None:
                session = self._open[how, backend] = self._start(how, backend)
            self._name_classes(session)
            self.device = session.device
        return session

    def with_streams(self, how: SessionOptions, backend: str | None = None) -> tuple[Session, int]:
        """Return an open model, and how many of many images should be handed to it side by side."""
        from segx.runtime import streams_and_threads

        with self._lock:
            spec = self._backend_spec(how, backend)
            if not spec.concurrent:
                return self.get(how, backend), 1
            known = self._open.get((how, backend))
            if known is None or known.device == "cpu":
                streams, threads = streams_and_threads(how.threads)
                known = self.get(how.replace(threads=threads, streams=streams), backend)
                if known.device == "cpu":
                    return known, streams + spec.queue
                self._open[how, backend] = known  # where threads do not matter
            return known, _ON_GPU

    def model(self, verb: str) -> ModelSession:
        """Return a session whose model can be changed, saved and exported.

        Raises:
            UsageError: The model is an exported one.
        """
        from segx.plugin.training import ModelSession

        with self._lock:
            self._heed()
            session = self._shared or (next(iter(self._open.values())) if self._open else self.get(SessionOptions()))
            self._name_classes(session)
        if not isinstance(session, ModelSession):
            hint = "exported models predict and validate; use the .pt it was made from"
            raise UsageError(f"{verb} needs a model of format 'pt', {self._given} is {self._format!r}", hint=hint)
        return session

    def share(self) -> Any:
        """Return the model itself as its runtime has it; what is changed in it is what every verb takes from then on.

        Raises:
            UsageError: The model is an exported one.
        """
        with self._lock:
            if self._shared is None:
                self._shared = self.model("model.model")
                self._close_others(self._shared)  # they have weights of their own
                self._names = self._names if self.renamed else dict(self._shared.info.names)
                self.info = self._shared.info
            return self._shared.share_module()

    def _name_classes(self, session: Session) -> None:
        """Have a session call classes as :attr:`info` does: a program that renames one there means every verb."""
        names = session.info.names
        if not self.renamed or names is self.info.names or not isinstance(names, dict):
            return
        if names.keys() == self.info.names.keys():  # else the file has been replaced by another model's since
            names.update(self.info.names)

    def _heed(self) -> None:
        """Take over what was changed in a model that was shared.

        Raises:
            UsageError: It is another one than before.
        """
        with self._lock:
            if self._shared is not None and self._shared.heed():
                self.keep_only(self._shared)

    def keep_only(self, changed: ModelSession) -> None:
        """Close the sessions that hold old weights: those of this one are new, and in memory only."""
        with self._lock:
            self._close_others(changed)
            self.changed, self.info = True, changed.info

    def _close_others(self, kept: Session) -> None:
        for key, session in list(self._open.items()):
            if session is not kept:
                session.close()
                del self._open[key]

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            for session in self._open.values():
                session.close()
            self._open.clear()
            self._shared = None

    @property
    def _format(self) -> str:
        return MODEL_FORMAT if isinstance(self._origin, ModelDefinition) else self._origin.format

    def choice(self, how: SessionOptions) -> Choice | None:
        """Return what was measured of the runtimes of this file, where it holds for how it is to run."""
        artifact = self._file
        if artifact is None or how.half:
            return None
        with self._lock:
            if how.device not in self._choices:
                found = None
                if len(self._registry.backends_for(artifact.format).usable) > 1:
                    from segx.plugin.fastest import measured

                    found = measured(artifact, self._registry, device=how.device)
                self._choices[how.device] = found
                if found is not None and found.fastest is not found.usual:
                    logger.info("%s: %s", self._given, found.brief())
            return self._choices[how.device]

    def _backend_spec(self, how: SessionOptions, backend: str | None) -> BackendSpec:
        if backend is None and (choice := self.choice(how)) is not None:
            backend = choice.fastest.backend
        return self._registry.backend_for(self._format, name=backend, device=how.device)

    def _start(self, how: SessionOptions, backend: str | None) -> Session:
        from segx.plugin.training import ModelSession

        spec = self._backend_spec(how, backend)
        runtime = self._registry.backends.load(spec)
        if spec.caution and self.path is not None:
            _warn_once(f"{self.path} {spec.caution}")
        if self._shared is None and self._file is not None:
            session = runtime.open(self._file, how)
        elif isinstance(self._origin, ModelDefinition) and not self._open:
            session = model_backend(self._registry, spec).build(self._origin.config, self._origin.architecture, how)
        else:  # the weights are in memory only, or may be changed there
            session = self.model("copy").beside(how)
        return session if spec.concurrent or isinstance(session, ModelSession) else OneAtATime(session)


class OneAtATime:
    """A session of a runtime that may not be called from several threads at once; the next caller waits.

    Attributes:
        info: What is known of the model.
        device: Where it runs.
        channels_last: How it takes images.
    """

    def __init__(self, session: Session) -> None:
        self.channels_last = getattr(session, "channels_last", False)
        self.info = session.info
        self.device = session.device
        self._session = session
        self._lock = threading.Lock()

    def run(self, images: Images) -> tuple[Array, ...]:
        """Return the raw outputs: :meth:`segx.plugin.interfaces.Session.run`."""
        with self._lock:
            return self._session.run(images)

    def close(self) -> None:
        """Free what the runtime holds."""
        with self._lock:
            self._session.close()


def model_backend(registry: Registry, spec: BackendSpec | None = None) -> ModelBackend:
    """Return what builds and trains models.

    Raises:
        MissingPluginError: It is not installed.
        UsageError: It only opens them.
    """
    from segx.plugin.training import ModelBackend

    spec = spec or registry.backend_for(MODEL_FORMAT)
    backend = registry.backends.load(spec)
    if not isinstance(backend, ModelBackend):
        raise UsageError(f"backend {spec.name!r} ({spec.provider}) opens models, but cannot build or train one")
    return backend


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


def find_model(model: str | os.PathLike[str], registry: Registry) -> Artifact | ModelDefinition:
    """Return what a name or an address means: a model on disk, downloaded if need be, or the definition of a new one.

    Raises:
        ModelError: It is not there and no known name.
        MissingPluginError: Nothing installed knows its architecture.
    """
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):  # type: ignore[redundant-expr]  # untyped callers
        raise WrongTypeError(f"a model is named by text or a path, not by {model!r}", hint='YOLO("yolov8n-seg.pt")')
    text = os.fspath(model)
    if "://" in text:
        from segx.io import network

        if network.is_address(text):
            return _at_address(text, registry)
    path = expanded(text)
    try:
        path.exists()
    except OSError as error:  # no name that there could be
        raise ModelError(f"model {text!r} cannot be looked for ({error.strerror})") from error
    if path.suffix.lower() in {".yaml", ".yml"}:
        return _find_definition(text, path, registry)
    if path.exists():
        return registry.artifact(path)
    name = text if path.suffix or registry.format_of(text) else f"{text}.{MODEL_FORMAT}"
    if Path(name).exists():
        return registry.artifact(name)
    if registry.format_of(name) == MODEL_FORMAT and Path(name).name == name:
        from segx.plugin.weights import resolve_weights

        return Artifact(path=resolve_weights(name, registry), format=MODEL_FORMAT)
    return registry.artifact(name)  # says what is wrong with it


def _at_address(address: str, registry: Registry) -> Artifact:
    import urllib.parse

    from segx.io.names import safe
    from segx.plugin.weights import download_weights

    name = PurePosixPath(urllib.parse.urlsplit(address).path)
    if registry.format_of(name.name) != MODEL_FORMAT:
        hint = "download what else there is, and give its path"
        raise UsageError(f"{printable(address)} is not the address of a .{MODEL_FORMAT}", hint=hint)
    name = name.with_stem(safe(name.stem, otherwise="model"))
    return Artifact(path=download_weights(address, name.name), format=MODEL_FORMAT)


def printable(model: str | os.PathLike[str]) -> str:
    """Return a model's name as it may be printed and written down: an address without passwords and tokens."""
    text = os.fspath(model)
    if "://" not in text:
        return text
    from segx.io import network

    return network.shown(text) if network.is_address(text) else text


def find_weights(name: str | os.PathLike[str], registry: Registry) -> Artifact:
    """Return the file that weights are taken from.

    Raises:
        UsageError: It has none.
    """
    source = find_model(name, registry)
    if not isinstance(source, Artifact):
        raise UsageError(f"{os.fspath(name)!r} is a configuration without weights", hint="give a .pt file")
    return source


def _find_definition(text: str, path: Path, registry: Registry) -> ModelDefinition:
    """Return the configuration that a YAML of the user's own, or the name of a shipped one, describes."""
    if path.exists() and not path.is_dir():
        from segx.io.files import read_mapping

        architecture = registry.architecture_for(
            read_mapping(
                path, error=ModelError, what="a model", hint="a model's YAML has the keys nc, scales, backbone, head"
            )
        )
        return ModelDefinition(architecture.read_config(path), architecture)
    shipped = registry.variant(text)
    if shipped is not None:
        architecture = registry.architectures.load(shipped.name)
        return ModelDefinition(architecture.read_config(path.stem), architecture)
    known = [f"{name}.yaml" for spec in registry.architectures.values() for name in spec.variants]
    hint = f"shipped: {', '.join(sorted(known)) or 'none (no architecture is installed)'}"
    raise MissingModelError(
        f"model {text!r} is not a file here, nor a shipped configuration{version_or_typo(text, known)}", hint=hint
    )
