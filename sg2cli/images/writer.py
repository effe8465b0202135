"""Encoding and writing image files in background threads, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from sg2cli import devices
from sg2cli.images.codecs import FORMATS, encode, is_kept
from sg2cli.storage.atomic import NameTaken, new_file

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels
    from sg2cli.images.stored_ws import Array

IN_FLIGHT = 64 << 20  # bytes of pixels waiting to be encoded
Task = tuple[int, Path, "Pixels", Mapping[str, Any], Union["Array", None]]


class ImageWriter:
    """Encodes and writes images in threads, and reports them in the order of `put`.

    `on_written(path, provenance, is_new)` is called for each image once it and all before it are
    complete; `is_new` is false if another process wrote it meanwhile with the same settings, and
    `skip_existing` is set. The first error is raised by the next `put`, or when the block ends.
    After an error in the block, queued images are still written; after an interruption they are
    dropped, and a blocked `on_written` is not awaited.
    """

    def __init__(
        self,
        on_written: Callable[[Path, Mapping[str, Any], bool], object],
        overwrite: bool = False,
        skip_existing: bool = False,
    ) -> None:
        self.on_written = on_written
        self.overwrite = overwrite
        self.skip_existing = skip_existing
        self._changed = threading.Condition()  # guards the following fields; not held in on_written
        self._put = self._under_way = self._active = 0
        self._done: dict[int, tuple[Path, Mapping[str, Any], bool] | None] = {}  # None: failed
        self._error: BaseException | None = None
        self._dropping = False
        self._reporting = threading.Lock()  # guards the following fields
        self._reported = 0
        self._stop_reporting = False  # on_written failed: a closed pipe
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # One keeps up with a CPU, but not with a GPU. They are started now, because memory for a
        # thread may be missing later. If none can be started, `put` does the work.
        for _ in range(max(1, min(4, devices.available_cores()))):
            thread = threading.Thread(target=self._serve, name="write", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                break
            self._threads.append(thread)

    def put(
        self,
        path: Path,
        image: Pixels,
        provenance: Mapping[str, Any],
        ws: Array | None = None,
    ) -> None:
        """Queue an image, and its latent; waits while too many are queued."""
        limit = max(4, min(64, IN_FLIGHT // image.nbytes))
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < limit or self._error)
            self._raise()
            task = (self._put, path, image, provenance, ws)
            self._put += 1
            self._under_way += 1
        if self._threads:
            self._tasks.put(task)
        else:
            self._work(*task)

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        interrupted = not (error is None or isinstance(error, Exception))
        self._dropping = interrupted
        for _ in self._threads:
            self._tasks.put(None)
        if interrupted:
            with self._changed:
                self._changed.wait_for(lambda: not self._active, timeout=10)
        else:
            for thread in self._threads:
                thread.join()
        if self._reporting.acquire(timeout=1):  # those after a dropped one
            for index in range(self._reported, self._put):
                self._report(index)
            self._reporting.release()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _serve(self) -> None:
        while task := self._tasks.get():
            self._work(*task)

    def _work(
        self,
        index: int,
        path: Path,
        image: Pixels,
        provenance: Mapping[str, Any],
        ws: Array | None,
    ) -> None:
        with self._changed:
            if self._dropping:
                return
            self._active += 1
        done, error = None, None
        try:
            done = (path, provenance, self._write(path, image, provenance, ws))
        except BaseException as raised:  # raised again by `put` or at the end
            error = raised
        with self._changed:
            self._active -= 1
            self._under_way -= 1
            self._done[index] = done
            self._error = self._error or error
            self._changed.notify_all()
        with self._reporting:
            while self._reported in self._done:
                self._report(self._reported)
                self._reported += 1

    def _write(
        self, path: Path, image: Pixels, provenance: Mapping[str, Any], ws: Array | None
    ) -> bool:
        """Write a file; returns whether it is new."""
        content = encode(image, FORMATS[path.suffix.lower()], provenance, ws)
        try:
            with new_file(path, self.overwrite) as file:
                file.write(content)
        except NameTaken:
            size = (image.shape[1], image.shape[0])
            if self.skip_existing and is_kept(path, provenance, size):
                return False
            raise
        return True

    def _report(self, index: int) -> None:
        done = self._done.pop(index, None)
        if done and not self._stop_reporting:
            try:
                self.on_written(*done)
            except BaseException as error:
                self._stop_reporting = True
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()
