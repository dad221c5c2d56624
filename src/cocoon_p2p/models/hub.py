"""Models from a hub of the Hugging Face kind, by its library: `hf:owner/repo[@revision]`.

Only the files that a model needs are fetched, into the library's own cache, where it goes on with half a download. A local
folder with the same layout, ROOT/owner/repo/REVISION/…, can stand in for the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.models.disk_room import check_room
from cocoon_p2p.models.source import GENAI_CONFIG, HUB_PREFIX, FolderSource, Progress, Source

ROOT_VARIABLE, OFFLINE_VARIABLE = "COCOON_HUB_ROOT", "HF_HUB_OFFLINE"
DEFAULT_REVISION = "main"
_ADDRESS = re.compile(
    r"hf:(?P<owner>[A-Za-z0-9][\w.-]{0,95})/(?P<repo>[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,199}))?"
)
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Where repositories are looked for. `root`: a folder that stands in for the hub."""

    root: Path | None = None
    offline: bool = False
    endpoint: str | None = None
    """URL of another hub; None: what the library is set to."""


@dataclass(frozen=True, slots=True)
class Address:
    owner: str
    repo: str
    revision: str | None

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        return HUB_PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> Address:
    """Raises ConfigError for anything but hf:owner/repo[@revision]."""
    match = _ADDRESS.fullmatch(text)
    if match is None or ".." in text or "//" in text:
        raise ConfigError(
            f"{text[:120]!r} is no repository of a hub", hint="write hf:OWNER/REPO or hf:OWNER/REPO@REVISION"
        )
    return Address(match["owner"], match["repo"], match["revision"])


def open_hub(text: str, place: HubPlace, progress: Progress) -> Source:
    """The repository as a source. Raises ConfigError: no such repository or revision, nobody answers, not in the cache."""
    address = parse_address(text)
    root = place.root or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if root is not None:
        return _stand_in(address, root)
    library = _library()
    offline = place.offline or os.environ.get(OFFLINE_VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")
    return _HubSource(address, library, progress, offline=offline, endpoint=place.endpoint)


def _stand_in(address: Address, root: Path) -> Source:
    folder = root.expanduser() / address.owner / address.repo / (address.revision or DEFAULT_REVISION)
    if not folder.is_dir():
        raise ConfigError(
            f"{address} is not in {root}: there is no folder {folder}",
            hint=f"a folder in place of the hub (--hub-root, {ROOT_VARIABLE}) has the layout OWNER/REPO/REVISION/files",
        )
    return FolderSource(folder, label=str(address), name=address.repo, deep=True)


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError(
            "models from a hub need the library huggingface_hub, which is not installed",
            hint="pip install 'cocoon-p2p[hub]'; or download the model otherwise, and add its folder",
        ) from error
    return huggingface_hub


class _HubSource:
    """A repository at one commit, whose files are fetched as they are opened."""

    shallow = False

    def __init__(
        self, address: Address, library: Any, progress: Progress, *, offline: bool, endpoint: str | None
    ) -> None:
        self._address = address
        self._library = library
        self._progress = progress
        self._offline = offline
        self._endpoint = endpoint
        self.label = str(address)
        self.suggested_name = address.repo
        self._commit, self._sizes = self._cached_files() if offline else self._listed_files()

    def onnx_files(self) -> Sequence[str]:
        return sorted(path for path in self._sizes if path.endswith(".onnx") or path.rpartition("/")[2] == GENAI_CONFIG)

    def has(self, path: str) -> bool:
        return path in self._sizes

    def size(self, path: str) -> int:
        if path not in self._sizes:
            raise ConfigError(f"{self.label} has no file {path[:200]!r}")
        return self._sizes[path]

    def companions(self, path: str) -> int:
        return sum(size for other, size in self._sizes.items() if other.startswith(path) and other != path)

    def open(self, path: str, *, trusted: bool = False) -> BinaryIO:
        """Fetched into the library's cache, where the file is a link to what the library itself wrote."""
        size = self.size(path)
        if not self._offline and size > _SMALL_BYTES:
            check_room(Path(self._library.constants.HF_HUB_CACHE), size, f"downloading {path}")
        try:
            found = self._library.hf_hub_download(
                self._address.repository,
                path,
                revision=self._commit,
                local_files_only=self._offline,
                endpoint=self._endpoint,
                tqdm_class=_bar(self._progress, path, size),
            )
            return Path(found).open("rb")
        except _errors(self._library) as error:
            raise self._failed(error, path) from error

    def _listed_files(self) -> tuple[str, dict[str, int]]:
        try:
            info = self._library.HfApi(endpoint=self._endpoint).model_info(
                self._address.repository, revision=self._address.revision, files_metadata=True
            )
        except _errors(self._library) as error:
            raise self._failed(error, None) from error
        return str(info.sha), {str(file.rfilename): int(file.size or 0) for file in info.siblings or ()}

    def _cached_files(self) -> tuple[str, dict[str, int]]:
        """What the library's cache has of the revision. Raises ConfigError when that is nothing."""
        wanted = self._address.revision or DEFAULT_REVISION
        try:
            repositories = self._library.scan_cache_dir(self._library.constants.HF_HUB_CACHE).repos
        except _errors(self._library) as error:  # no cache yet, or one that is broken
            raise self._not_cached() from error
        of_model = [
            revision
            for repository in repositories
            if (repository.repo_type, repository.repo_id) == ("model", self._address.repository)
            for revision in repository.revisions
        ]
        found = [revision for revision in of_model if wanted in (revision.commit_hash, *revision.refs)]
        if not found and self._address.revision is None:
            # We fetch by commit, and then the library notes no branch: the newest of what was fetched is meant.
            found = sorted(of_model, key=lambda revision: float(revision.last_modified), reverse=True)
        if not found:
            raise self._not_cached()
        files = {
            file.file_path.relative_to(found[0].snapshot_path).as_posix(): int(file.size_on_disk)
            for file in found[0].files
        }
        return str(found[0].commit_hash), files

    def _not_cached(self) -> ConfigError:
        return ConfigError(
            f"{self._address} was not downloaded before, and this is offline",
            hint=f"without --offline and {OFFLINE_VARIABLE} it is fetched; or copy its folder here and add that",
        )

    def _failed(self, error: Exception, path: str | None) -> ConfigError:
        what = f"{path} of {self._address}" if path else str(self._address)
        kind = type(error).__name__
        if self._offline:
            hint = f"without --offline and {OFFLINE_VARIABLE} it is fetched"
        elif kind == "GatedRepoError":
            hint = "its owner wants you to agree to something first, on its page; then: hf auth login"
        elif kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"):
            hint = "check OWNER/REPO and the revision; a private one needs: hf auth login"
        else:
            hint = "try again: what was downloaded is kept, and the download goes on from there"
        lines = str(error).strip().splitlines()
        return ConfigError(
            f"{what} cannot be had: {kind}: {lines[0][:200] if lines else 'no more is known'}", hint=hint
        )


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """What the library raises when something is not there or nobody answers; it has no class for all of it."""
    own = ("HTTPError", "EntryNotFoundError", "CacheNotFound", "XetDownloadError")
    named = [getattr(library.errors, name, None) for name in own]
    return (OSError, ValueError, RuntimeError, LookupError, *(each for each in named if each is not None))


def _bar(progress: Progress, path: str, size: int) -> type:
    """What the library takes for a tqdm class: it tells `progress`, and shows nothing itself. Where the library makes two bars
    for one file (what came, what was put together) only the first counts."""
    first: list[object] = []

    class Bar:
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.n = int(settings.get("initial") or 0)
            self.total = settings.get("total")
            self.format_dict: dict[str, Any] = {}
            first.append(self)
            if first[0] is self:
                progress.begin(f"downloading {path.rpartition('/')[2]}", int(self.total or size))
                progress.advance(self.n)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *exc_info: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            self.n += int(count or 0)
            if first[0] is self:
                progress.advance(int(count or 0))

        def close(self) -> None:
            pass

        def refresh(self, *args: Any, **settings: Any) -> None:
            pass

        set_description = set_description_str = set_postfix = set_postfix_str = reset = refresh

    return Bar
