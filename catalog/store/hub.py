"""Pulls models from the Hugging Face hub: metadata first, then each file, resumed and verified.

``huggingface_hub`` implements the protocol. A file stays under ``partial/`` until its digest matches the
repository's metadata, and is then renamed into the repository's folder.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from catalog.errors import PullError
from catalog.file_rows import row_of
from catalog.model import HubSource, Model
from catalog.paths import slug, within
from catalog.selection import RemoteFile, Selection, select
from catalog.store.manifest import Manifest, StoredFile, sha256_of
from catalog.store.progress import Progress, PullEvent, Stage, silent
from catalog.store.room import check_room
from catalog.store.transfer import ChecksumMismatch, Sleep, download, transport_errors, unreachable_errors


@dataclass(frozen=True, slots=True)
class HubPull:
    """The result of a pull: the selected files on disk. ``folder`` is relative to the store's root."""

    source: HubSource
    commit: str
    folder: str
    selection: Selection
    files: dict[str, StoredFile]
    root: Path

    @property
    def entry(self) -> str:
        """The file or folder that the engine opens, relative to the store's root."""
        return self.folder if self.selection.entry == "." else f"{self.folder}/{self.selection.entry}"

    def manifest(self, model_id: str, fingerprint: str, row: Model | None = None) -> Manifest:
        """Make the manifest of this pull."""
        return Manifest(id=model_id, fingerprint=fingerprint, entry=self.entry, files=self.files, row=row)

    def row(self, model_id: str | None) -> Model:
        """Make the catalogue row from the files."""
        return row_of(self.source, self.selection, self.root / self.folder, model_id)


@dataclass(frozen=True, slots=True)
class RepositoryCard:
    """The hub's account of a repository: commit, files, licence (an SPDX id in lower case, or ``other``)."""

    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None
    gated: bool


class Hub:
    """A client of the Hugging Face hub, or of a mirror at ``endpoint``."""

    def __init__(self, endpoint: str | None = None, *, sleep: Sleep = time.sleep) -> None:
        self._endpoint = endpoint
        self._sleep = sleep

    def pull(
        self,
        source: HubSource,
        root: Path,
        label: str,
        progress: Progress,
        *,
        token: str | None = None,
        memory: int | None = None,
    ) -> HubPull:
        """Fetch the files that ``source`` and ``memory`` select. Raises PullError, ChecksumMismatch.

        Files of an earlier pull of the same commit are reused.
        """
        progress(PullEvent(label, Stage.METADATA))
        with _translated(source):
            commit, files = self._metadata(source, token)
        selection = select(files, pattern=source.pattern, memory=memory, only=source.files)
        selection = _pinned(selection, source)
        progress(PullEvent(label, Stage.METADATA, total=selection.size))
        folder = f"hub/{slug(source.repository)}/{commit[:12]}"
        with FileLock(_lock_path(root, source, commit)):
            check_room(root, self._absent(source, commit, selection, root, folder), label)
            stored = {
                f"{folder}/{file.local}": self._file(source, commit, file, root, folder, label, progress, token)
                for file in selection.files
            }
        return HubPull(source, commit, folder, selection, stored, root)

    def describe(self, repository: str, *, token: str | None = None) -> RepositoryCard:
        """Return a repository's files with their sizes, its licence, and whether it is gated. Raises PullError."""
        source = HubSource(repository=repository)
        with _translated(source):
            info = self._info(source, token)
            commit, files = self._files(source, info)
        terms = next((tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")), None)
        return RepositoryCard(commit, tuple(files), terms, bool(info.gated))

    def read(self, repository: str, card: RepositoryCard, name: str, *, token: str | None = None) -> bytes:
        """Return a small file of a repository, verified. Raises PullError, ChecksumMismatch."""
        source = HubSource(repository=repository)
        file = next(file for file in card.files if file.name == name)
        with tempfile.TemporaryDirectory() as folder:
            path = self._download(source, card.commit, file, Path(folder), repository, silent, token)
            _verify(path, file, source, repository, silent)
            return path.read_bytes()

    def _metadata(self, source: HubSource, token: str | None) -> tuple[str, list[RemoteFile]]:
        return self._files(source, self._info(source, token))

    def _info(self, source: HubSource, token: str | None) -> Any:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=token)
        try:
            return api.model_info(source.repository, revision=source.revision, files_metadata=True)
        except (KeyError, TypeError, AttributeError) as error:
            raise PullError(
                f"The hub's description of {source.repository} lacks what a pull needs ({_first_line(error)}). "
                "A mirror (HF_ENDPOINT) may be at fault."
            ) from error

    @staticmethod
    def _files(source: HubSource, info: Any) -> tuple[str, list[RemoteFile]]:
        files = []
        for sibling in info.siblings or []:
            lfs: Any = sibling.lfs
            files.append(
                RemoteFile(
                    name=sibling.rfilename,
                    size=int(sibling.size or 0),
                    sha256=lfs.sha256 if lfs else None,
                    sha1=None if lfs else sibling.blob_id,
                )
            )
        if not info.sha:
            raise PullError(f"The hub gives no commit for {source.repository} at {source.revision!r}.")
        return info.sha, files

    def _absent(self, source: HubSource, commit: str, selection: Selection, root: Path, folder: str) -> int:
        """The bytes of the selected files that are not on disk, neither whole nor in part."""
        absent = 0
        for file in selection.files:
            whole = within(root, f"{folder}/{file.local}")
            if not (whole.is_file() and whole.stat().st_size == file.size):
                part = _partial(root, source, commit, file)
                absent += file.size - (min(part.stat().st_size, file.size) if part.is_file() else 0)
        return absent

    def _file(
        self,
        source: HubSource,
        commit: str,
        file: RemoteFile,
        root: Path,
        folder: str,
        label: str,
        progress: Progress,
        token: str | None,
    ) -> StoredFile:
        target = within(root, f"{folder}/{file.local}")
        if not (target.is_file() and target.stat().st_size == file.size):
            fetched = self._download(source, commit, file, root, label, progress, token)
            digest = _verify(fetched, file, source, label, progress)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(target)
        else:
            progress(PullEvent(label, Stage.CACHED, file.name, file.size, file.size))
            digest = file.sha256 or sha256_of(target)
        return StoredFile(size=file.size, sha256=digest)

    def _download(
        self,
        source: HubSource,
        commit: str,
        file: RemoteFile,
        root: Path,
        label: str,
        progress: Progress,
        token: str | None,
    ) -> Path:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        def watch(done: int) -> None:
            progress(PullEvent(label, Stage.DOWNLOADING, file.name, done, file.size, file.sha256))

        target = _partial(root, source, commit, file)
        url = hf_hub_url(source.repository, file.name, revision=commit, endpoint=self._endpoint)
        with _translated(source):
            download(url, build_hf_headers(token=token), target, file.size, watch, sleep=self._sleep)
        return target


def _partial(root: Path, source: HubSource, commit: str, file: RemoteFile) -> Path:
    """The place of an unfinished download."""
    target = within(root / "partial" / slug(source.repository) / commit[:12], file.name)
    return target.with_name(f"{target.name}.part")


def _verify(path: Path, file: RemoteFile, source: HubSource, label: str, progress: Progress) -> str:
    """Check size and digest against the repository's metadata; return the SHA-256.

    Raises ChecksumMismatch, after deleting the file.
    """

    def watch(done: int) -> None:
        progress(PullEvent(label, Stage.VERIFYING, file.name, done, file.size))

    digest = sha256_of(path, watch)
    right = path.stat().st_size == file.size
    if file.sha256 is not None:
        right = right and digest == file.sha256
    elif file.sha1 is not None:
        right = right and _git_blob(path) == file.sha1
    if not right:
        path.unlink()
        raise ChecksumMismatch(
            f"{file.name} of {source.repository} is not the file that the repository declares; "
            "nothing of it was kept. Pull again; if it happens again, the hub or a proxy alters it."
        )
    return digest


def _git_blob(path: Path) -> str:
    """Return git's blob id of a file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _pinned(selection: Selection, source: HubSource) -> Selection:
    """Apply the digests that the user's row pins. Raises ChecksumMismatch if the hub declares another."""
    files = []
    for file in selection.files:
        pin = source.sha256.get(file.name)
        if pin is not None and file.sha256 is not None and pin != file.sha256:
            raise ChecksumMismatch(f"{file.name} of {source.repository} is not the file that the row pins.")
        files.append(replace(file, sha256=pin) if pin is not None else file)
    return replace(selection, files=tuple(files))


def _lock_path(root: Path, source: HubSource, commit: str) -> Path:
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{slug(source.repository)}-{commit[:12]}.lock"


@contextmanager
def _translated(source: HubSource) -> Iterator[None]:
    """Translate the errors of ``huggingface_hub`` into PullError."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = source.repository
    try:
        yield
    except GatedRepoError as error:
        raise PullError(
            f"{name} is gated: accept its terms on the hub and give a token that may read it ({_BY})."
        ) from error
    except RevisionNotFoundError as error:
        raise PullError(f"{name} has no revision {source.revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise PullError(
            f"The hub has no repository {name}, or it is private: then give a token that may read it ({_BY})."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise PullError(f"The hub cannot be reached for {name}: {_first_line(error)}") from error
    except unreachable_errors() as error:
        raise PullError(
            f"The hub cannot be reached for {name} ({_first_line(error)}). Check this machine's network, or set "
            "its proxy (HTTPS_PROXY) or a mirror (HF_ENDPOINT), then pull again."
        ) from error
    except HfHubHTTPError as error:
        raise PullError(f"The hub refused {name}: {_first_line(error)}") from error
    except transport_errors() as error:
        raise PullError(f"The hub broke off for {name}: {_first_line(error)}. Pull again to resume.") from error
    except OSError as error:
        raise PullError(f"{name} could not be fetched: {_first_line(error)}. Pull again to resume.") from error


_BY = "--token, or HF_TOKEN in the server's environment"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
