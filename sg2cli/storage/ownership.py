"""Output folders that may hold files of the user, and the record of those that sg2 wrote.

Only files that are in the record, with the hash that they still have, are replaced or removed.
The record is `.sg2/manifest.json`, which also marks `.sg2` as ours; working files are beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sg2cli.errors import Sg2Error, brief, reason
from sg2cli.storage.atomic import make_folder, new_file, sweep
from sg2cli.storage.paths import is_there, kind
from sg2cli.storage.reading import content_sha256, read_bytes, sha256
from sg2cli.storage.safetensors import unique

OWN = ".sg2"
MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 20  # bytes; ours have a line for each of a dozen files
HASH = re.compile(r"[0-9a-f]{64}")


class OwnedFolder:
    """A folder of results; it is created when the first file is written."""

    def __init__(self, folder: Path, names: Collection[str], replace: bool = False) -> None:
        """`names` are those of all files that may be recorded.

        With `replace`, results replace files of the same name that sg2 did not write. Sg2Error if
        there is a `.sg2` that sg2 did not create.
        """
        self.folder, self.replace = folder, replace
        self.own = folder / OWN
        self._names = names
        self._made: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the record again: another process may have written it."""
        self.fields: dict[str, Any] = {}  # the other fields of the manifest
        self._hashes: dict[str, list[str]] = {}  # two where a replacement may not have happened
        if kind(self.own) != "nothing":
            self._read()

    def _read(self) -> None:
        if kind(self.own) != "folder" or self.own.is_symlink():
            raise self._not_ours("it is not a folder")
        sweep(self.own)
        manifest = self.own / MANIFEST
        if manifest.is_symlink() or kind(manifest) != "file":
            if any(self.own.iterdir()):
                raise self._not_ours("it has no manifest")
            return  # killed before there was one
        try:
            content = read_bytes(manifest, MAX_MANIFEST)
            found = json.loads(content, object_pairs_hook=unique)
            hashes = found.pop("files")
            if not all(HASH.fullmatch(hash) for known in hashes.values() for hash in known):
                raise ValueError("its hashes are malformed")
            if strange := hashes.keys() - set(self._names):
                raise ValueError(f"it names {brief(min(strange))}, which is not a result")
        except OSError as error:
            raise Sg2Error(f"cannot read {manifest}: {reason(error)}") from error
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self._not_ours(f"its manifest is damaged ({error})") from error
        self.fields, self._hashes = found, hashes

    def _not_ours(self, why: str) -> Sg2Error:
        return Sg2Error(
            f"{self.own} was not made by sg2, or is damaged: {why}; move it away, or use another "
            "`out`"
        )

    def allow_replacing(self, key: str, begin: bool, note: bool) -> None:
        """Let results replace files of the same name that sg2 did not write.

        Allowed if `begin`, and in later runs with the same `key` until `done_replacing`; `note`
        records it for them.
        """
        if begin and note:
            self.fields["replacing"] = key
            self.save()
        self.replace = begin or self.fields.get("replacing") == key

    def done_replacing(self) -> None:
        """End the permission: all results are written."""
        if self.fields.pop("replacing", None):
            self.save()

    def is_ours(self, name: str) -> bool:
        """Whether a file exists and is unchanged since sg2 wrote it."""
        return self._own_hash(name) is not None

    def _own_hash(self, name: str) -> str | None:
        """The hash of a file that is unchanged since sg2 wrote it, else None."""
        path, known = self.folder / name, self._hashes.get(name)
        found = sha256(path) if known and kind(path) == "file" else None
        return found if known and found in known else None

    def changed(self) -> list[str]:
        """Files that sg2 wrote and that are missing or changed."""
        return [name for name in self._hashes if not self.is_ours(name)]

    def check(self, *names: str) -> None:
        """Sg2Error for existing files that may not be replaced."""
        for name in names:
            if is_there(self.folder / name) and not (self.replace or self.is_ours(name)):
                raise Sg2Error(
                    f"{self.folder / name} exists and is not as sg2 wrote it: move it away, or use "
                    "`overwrite` or another `out`"
                )

    @contextmanager
    def new_file(self, name: str, durable: bool = False) -> Iterator[BinaryIO]:
        """As `atomic.new_file`, and record it; Sg2Error if the name may not be replaced."""
        self.check(name)
        ours = self._own_hash(name)
        before = [ours] if ours else []

        def record(file: BinaryIO) -> None:
            self.check(name)  # again: it may have been edited meanwhile
            file.seek(0)
            self._hashes[name] = [*before, content_sha256(file)]
            self.save()

        self.make()
        overwrite = self.replace or ours is not None
        with new_file(self.folder / name, overwrite, durable, before_naming=record) as file:
            yield file

    def write(self, name: str, content: bytes) -> Path:
        """A whole file; returns its path."""
        with self.new_file(name) as file:
            file.write(content)
        return self.folder / name

    def adopt(self, *names: str) -> None:
        """Record existing files that a version without manifests wrote."""
        if names:
            self._hashes |= {name: [sha256(self.folder / name)] for name in names}
            self.save()

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove the recorded files that are unchanged, except those to keep.

        Links, to files or to the folder itself, are not followed.
        """
        for name in [name for name in self._hashes if name not in keep]:
            path = self.folder / name
            if self.is_ours(name) and not (path.is_symlink() or self.folder.is_symlink()):
                path.unlink()
            del self._hashes[name]
            self.save()

    def make(self) -> None:
        """Create the folder."""
        missing = [path for path in (self.folder, *self.folder.parents) if kind(path) == "nothing"]
        make_folder(self.folder)
        self._made += missing

    def work_folder(self, name: str) -> Path:
        """Create a folder for working files in `.sg2`."""
        folder = self.own / name
        if folder.is_symlink() or kind(folder) not in ("folder", "nothing"):
            raise Sg2Error(f"{folder} is not a folder that sg2 made: move it away")
        if kind(self.own) == "nothing":
            self.save()
        make_folder(folder)
        return folder

    def remove_work(self, name: str, is_to_go: Callable[[str], bool]) -> None:
        """Remove the selected working files, and their folder if it is then empty."""
        folder = self.own / name
        if folder.is_symlink() or kind(folder) != "folder":
            return
        sweep(folder)
        for path in [path for path in folder.iterdir() if is_to_go(path.name)]:
            if path.is_symlink() or path.is_file():
                path.unlink()
        with suppress(OSError):  # it is not empty
            folder.rmdir()

    def save(self) -> None:
        """Write the manifest."""
        self.make()
        if kind(self.own) == "nothing":
            self.own.mkdir(exist_ok=True)
        content = json.dumps({**self.fields, "files": self._hashes}, indent=1).encode()
        with new_file(self.own / MANIFEST, overwrite=True) as file:
            file.write(content)

    def leave(self) -> None:
        """Remove an empty record and the empty folders that this object created."""
        if (
            not (self._hashes or self.fields)
            and kind(self.own) == "folder"
            and not self.own.is_symlink()
        ):
            with suppress(OSError):
                if {path.name for path in self.own.iterdir()} <= {MANIFEST}:
                    (self.own / MANIFEST).unlink(missing_ok=True)
                    self.own.rmdir()
        for folder in self._made:  # the innermost first
            with suppress(OSError):
                folder.rmdir()
        self._made.clear()
