"""Frames of a projection, stored as working files, and the video made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sg2cli.images.codecs import encode, read_image
from sg2cli.images.pixels import to_pixels
from sg2cli.images.video import write_video
from sg2cli.storage.atomic import new_file
from sg2cli.storage.ownership import OwnedFolder

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels
    from sg2cli.inversion.search import Search

MAX_FRAMES = 120  # in a video, without the result
FOLDER = "frames"
FRAME = re.compile(r"([0-9]{7})\.png")  # the step


def frame_interval(steps: int) -> int:
    """Number of steps between frames."""
    return -(-steps // MAX_FRAMES)


def take_frames(search: Search, folders: Sequence[OwnedFolder]) -> None:
    """Draw the current images of a search into the folders of its photos."""
    with torch.inference_mode():
        images = search.draw(search.state.params)
    for member, image in zip(search.state.members, images, strict=True):
        if image.isfinite().all():  # otherwise the photo ends
            folder = folders[member].work_folder(FOLDER)
            with new_file(folder / f"{search.state.step:07d}.png", overwrite=True) as file:
                file.write(encode(to_pixels(image[None])[0], "png", {}))


def drop_frames(folder: OwnedFolder, step: int) -> None:
    """Remove frames beyond a step, left by a run that was killed after its last snapshot."""

    def is_beyond(name: str) -> bool:
        match = FRAME.fullmatch(name)
        return match is not None and int(match[1]) > step

    folder.remove_work(FOLDER, is_beyond)


def write_frames(folder: OwnedFolder, target: Pixels, result: Pixels, suffix: str) -> Path:
    """Write film.mp4 or film.gif: the target beside each frame and the result."""
    frames = sorted(folder.work_folder(FOLDER).iterdir())
    frames = [frame for frame in frames if FRAME.fullmatch(frame.name)]
    drawn = [read_image(frame, target.shape) for frame in frames]
    pairs = (np.hstack([target, image]) for image in (*drawn, result))
    name = f"film{suffix}"
    with folder.new_file(name) as file:
        write_video(file, suffix, pairs, len(drawn) + 1, fps=30)
    return folder.folder / name
