"""Videos: frames to mp4, GIF or animated WebP, one at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sg2cli.errors import UsageError
from sg2cli.extras import install_command

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels

SUFFIXES = (".mp4", ".gif", ".webp")


def check_video(path: Path, width: int, height: int, fps: float = 30) -> None:
    """UsageError if a video of this name, size and frame rate cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: videos are written as {', '.join(SUFFIXES)} or into a folder")
    if path.suffix.lower() == ".mp4":
        if importlib.util.find_spec("av") is None:
            raise UsageError(
                f"mp4 requires PyAV: run `{install_command('video')}`, or write a .gif, .webp or "
                "folder"
            )
        if width % 2 or height % 2:
            raise UsageError(
                f"mp4 requires an even width and height, not {width}x{height}: use .gif or .webp"
            )
    if path.suffix.lower() == ".gif" and fps > 100:
        raise UsageError(f"a GIF has at most 100 frames per second, not {fps:g}: use .mp4 or .webp")
    if path.suffix.lower() == ".webp" and max(width, height) > 16383:
        raise UsageError(
            f"{width}x{height} pixels are too many for webp: the limit is 16383 per side"
        )


def write_video(
    file: IO[bytes], suffix: str, frames: Iterator[Pixels], count: int, fps: float
) -> None:
    """Encode `count` frames [H,W,C] of one size; call `check_video` first."""
    writers = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp}
    writers[suffix.lower()](file, frames, count, fps)


def _to_pil(frame: Pixels) -> Any:
    import PIL.Image

    return PIL.Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)


def _opaque(frame: Pixels) -> Any:
    """As RGB; alpha is composited over white."""
    import PIL.Image

    image = _to_pil(frame)
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _write_mp4(file: IO[bytes], frames: Iterator[Pixels], count: int, fps: float) -> None:
    import av
    import numpy as np

    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"  # supported by every player
        stream.options = {"crf": "17"}  # visually lossless
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            rgb = np.asarray(_opaque(frame))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(file: IO[bytes], frames: Iterator[Pixels], count: int, fps: float) -> None:
    """Write frame by frame, each with its own palette; Pillow's writer would collect them."""
    from PIL.GifImagePlugin import getdata, getheader

    shown = 0  # in 1/100 s, the unit of GIF; rounded so that the total is exact
    for number, frame in enumerate(frames, start=1):
        image = _opaque(frame).quantize(256)
        until = round(number * 100 / fps)
        if number == 1:
            file.write(b"".join(getheader(image, info={"loop": 0})[0]))
        duration = 10 * (until - shown)
        file.write(b"".join(getdata(image, duration=duration, include_color_table=True)))
        shown = until
    file.write(b";")


def _write_webp(file: IO[bytes], frames: Iterator[Pixels], count: int, fps: float) -> None:
    """Write with Pillow, which reads the frames of a multi-frame image one by one.

    The encoder merges identical frames, and holds the compressed data until the end.
    """
    import PIL.Image

    class Frames(PIL.Image.Image):
        n_frames = count

        def __init__(self) -> None:
            super().__init__()
            self._at = -1
            self.seek(0)

        def tell(self) -> int:
            return 0

        def seek(self, frame: int) -> None:
            if frame == self._at + 1:  # Pillow seeks to the first frame at the end
                image = _to_pil(next(frames))
                image = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")
                self.im, self._size, self._mode = image.im, image.size, image.mode
                self._at = frame

    Frames().save(file, "webp", save_all=True, duration=1000 / fps, loop=0, quality=90, method=2)
