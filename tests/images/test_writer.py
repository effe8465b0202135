"""The writer of images beside the network."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sg2cli.errors import Sg2Error
from sg2cli.images import codecs
from sg2cli.images import writer as image_writer
from sg2cli.images.writer import ImageWriter

RNG = np.random.RandomState(0)


def noise(channels: int, size: int = 8) -> Any:
    return RNG.randint(0, 256, (size, size, channels)).astype(np.uint8)


def test_files_appear_in_order_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though those behind one that takes long are done before it."""
    written: list[str] = []
    encoded = image_writer.encode

    def uneven(image: Any, format: str, provenance: Any, ws: Any) -> bytes:
        time.sleep(0.02 * (provenance["i"] % 30 == 0))
        return encoded(image, format, provenance, ws)

    monkeypatch.setattr(image_writer, "encode", uneven)
    monkeypatch.setattr(image_writer.devices, "available_cores", lambda: 4)

    def on_written(path: Path, provenance: Any, is_new: bool) -> None:
        codecs.read_image(path, (8, 8, 3))
        written.append(path.name)

    with ImageWriter(on_written) as writer:
        for i in range(300):
            writer.put(tmp_path / f"{i}.png", noise(3), {"i": i})
    assert written == [f"{i}.png" for i in range(300)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)


def test_waiting_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk stands still, `put` waits instead of taking more images into memory."""
    gate, encoded = threading.Event(), image_writer.encode

    def slow(*args: Any) -> bytes:
        gate.wait(10)
        return encoded(*args)

    monkeypatch.setattr(image_writer, "encode", slow)
    monkeypatch.setattr(image_writer, "IN_FLIGHT", 10 * 8 * 8 * 3)
    with ImageWriter(lambda *_: None) as writer:
        putting = threading.Thread(
            target=lambda: [writer.put(tmp_path / f"{i}.png", noise(3), {}) for i in range(20)]
        )
        putting.start()
        putting.join(0.3)
        assert putting.is_alive()
        gate.set()
        putting.join(10)
        assert not putting.is_alive()
    assert len(list(tmp_path.iterdir())) == 20


def test_an_error_stops_the_run_and_keeps_what_is_whole(tmp_path: Path) -> None:
    written: list[str] = []
    (tmp_path / "3.png").write_bytes(b"mine")
    with pytest.raises(Sg2Error, match=r"3\.png exists"):  # noqa: SIM117
        with ImageWriter(lambda path, provenance, is_new: written.append(path.name)) as writer:
            for i in range(1000):
                writer.put(tmp_path / f"{i}.png", noise(3), {})
    assert written[:3] == ["0.png", "1.png", "2.png"]
    assert "3.png" not in written
    assert (tmp_path / "3.png").read_bytes() == b"mine"
    assert not list(tmp_path.glob(".sg2-*"))


def test_an_interrupted_block_reports_every_complete_file(tmp_path: Path) -> None:
    written: list[str] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with ImageWriter(lambda path, provenance, is_new: written.append(path.name)) as writer:
            for i in range(50):
                writer.put(tmp_path / f"{i}.png", noise(3), {})
            raise KeyboardInterrupt
    assert sorted(written) == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 1])
def test_threads_that_cannot_be_started_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == count:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(image_writer.devices, "available_cores", lambda: 4)
    written: list[str] = []
    with ImageWriter(lambda path, provenance, is_new: written.append(path.name)) as writer:
        for i in range(10):
            writer.put(tmp_path / f"{i}.png", noise(3), {})
    assert written == [f"{i}.png" for i in range(10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
