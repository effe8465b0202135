"""Videos have the frames asked for; memory does not grow with their length."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sg2cli.errors import UsageError
from sg2cli.images.video import check_video, write_video


def frames(count: int, size: int = 64, channels: int = 3) -> Iterator[Any]:
    """A smooth image that gets brighter, so that each frame can be recognised."""
    ramp = np.linspace(0, 60, size).astype(np.uint8)[:, None, None]
    for i in range(count):
        yield np.broadcast_to(ramp + np.uint8(150 * i // count), (size, size, channels)).copy()


def video(suffix: str, count: int, fps: float, **kind: Any) -> io.BytesIO:
    file = io.BytesIO()
    write_video(file, suffix, frames(count, **kind), count, fps)
    file.seek(0)
    return file


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("fps", [30, 12.5, 60])
@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_gif_and_webp(suffix: str, fps: float, channels: int) -> None:
    with PIL.Image.open(video(suffix, 31, fps, channels=channels)) as found:
        assert (found.n_frames, found.size, found.info["loop"]) == (31, (64, 64), 0)  # type: ignore[attr-defined]
        duration = 0.0
        for i, expected in enumerate(frames(31, channels=3)):
            found.seek(i)
            found.load()
            duration += found.info["duration"]
            if channels in (1, 3):
                difference = abs(np.asarray(found.convert("RGB")).astype(int) - expected)
                assert difference.mean() < 4
        assert duration == pytest.approx(31_000 / fps, abs=31 * 0.5 if suffix == ".webp" else 10)


@pytest.mark.parametrize("fps", [30, 12.5])
def test_mp4(fps: float) -> None:
    av = pytest.importorskip("av")
    with av.open(video(".mp4", 31, fps)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.width, stream.height, len(decoded)) == (64, 64, 31)
        assert float(stream.average_rate) == pytest.approx(fps)
        assert float(stream.duration * stream.time_base) == pytest.approx(31 / fps, rel=0.01)
    for found, expected in zip(decoded, frames(31), strict=True):
        assert abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_memory_does_not_grow_with_the_length(suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")

    class Nowhere(io.BytesIO):
        """Takes what is written, and keeps only where it stands."""

        def __init__(self) -> None:
            super().__init__()
            self.at = self.end = 0

        def write(self, content: Any) -> int:
            self.at += len(content)
            self.end = max(self.end, self.at)
            return len(content)

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (0, self.at, self.end)[whence]
            return self.at

        def tell(self) -> int:
            return self.at

    peaks = []
    for count in (20, 200):
        tracemalloc.start()
        write_video(Nowhere(), suffix, frames(count, size=256), count, 30)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + (1 << 20)


def test_videos_that_cannot_be_written_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.mp4, \.gif, \.webp"):
        check_video(Path("a.avi"), 64, 64)
    with pytest.raises(UsageError, match="too many for webp"):
        check_video(Path("a.webp"), 20_000, 64)
    check_video(Path("a.GIF"), 64, 64)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'av>=12'"):
        check_video(Path("a.mp4"), 64, 64)
