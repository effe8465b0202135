"""Interpolation of latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sg2cli.errors import UsageError
from sg2cli.latents.interpolation import METHODS, blend_noise, interpolate, key_frames, slerp, steps

RNG = np.random.RandomState(0)
KEYS = [RNG.randn(6, 16).astype("f4") for _ in range(4)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames", [4, 5, 17, 60])
def test_an_interpolation_has_its_frames_and_passes_through_its_keys(
    method: Any, loop: bool, frames: int
) -> None:
    places = list(interpolate(KEYS, frames, method, loop))
    assert len(places) == frames
    at = key_frames(len(KEYS), frames, loop)
    assert at[0] == 0 and at == sorted(set(at))
    assert at[-1] == (frames if loop else frames - 1)
    for key, frame in zip(KEYS, at, strict=False):
        np.testing.assert_array_equal(places[frame], key)
    assert all(place.dtype == np.float32 for place in places)


@pytest.mark.parametrize("method", METHODS)
def test_an_interpolation_has_no_jumps(method: Any) -> None:
    """With more frames a step gets shorter in proportion, at the closing of a loop, too."""

    def longest(frames: int) -> float:
        places = list(interpolate(KEYS, frames, method, loop=True))
        pairs = zip(places, [*places[1:], places[0]], strict=True)
        return max(float(np.linalg.norm(a - b)) for a, b in pairs)

    assert longest(800) == pytest.approx(longest(400) / 2, rel=0.05)


@pytest.mark.parametrize("loop", [False, True])
def test_a_cubic_interpolation_has_no_corners(loop: bool) -> None:
    """The change of direction from frame to frame vanishes with their distance, everywhere."""

    def sharpest(frames: int, method: Any) -> float:
        places = list(interpolate(KEYS, frames, method, loop))
        steps_ = np.diff(np.stack([*places, *places[: 2 * loop]]), axis=0).reshape(-1, 96)
        unit = steps_ / np.linalg.norm(steps_, axis=1, keepdims=True)
        return float(np.linalg.norm(np.diff(unit, axis=0), axis=1).max())

    assert sharpest(1201, "cubic") < 0.6 * sharpest(601, "cubic")
    assert sharpest(1201, "linear") > 0.9 * sharpest(601, "linear")


def test_linear_is_half_way_in_the_middle() -> None:
    places = list(interpolate(KEYS[:2], 3, "linear"))
    np.testing.assert_allclose(places[1], (KEYS[0] + KEYS[1]) / 2, rtol=1e-6)


def test_slerp_turns_evenly_and_keeps_the_length() -> None:
    a, b = np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]])
    for t in (0.25, 0.5, 0.9):
        angle = t * np.pi / 2
        expected = [[2 * np.cos(angle), 2 * np.sin(angle)]]
        np.testing.assert_allclose(slerp(a, b, t), expected, rtol=1e-6)
    np.testing.assert_allclose(slerp(a, 2 * a, 0.5), 1.5 * a)
    np.testing.assert_allclose(slerp(a, -a, 0.5), 0 * a, atol=1e-6)
    centre = np.array([[5.0, 5.0]])
    np.testing.assert_allclose(slerp(a + centre, b + centre, 0.5, centre), slerp(a, b, 0.5) + 5)


def test_two_latents_and_as_many_frames_are_needed() -> None:
    with pytest.raises(UsageError, match="two latents"):
        key_frames(1, 60, loop=False)
    with pytest.raises(UsageError, match="3 frames are too few to pass through 4"):
        key_frames(4, 3, loop=False)


@pytest.mark.parametrize("loop", [False, True])
def test_steps_go_from_latent_to_latent(loop: bool) -> None:
    way = list(steps(3, 12, loop))
    assert way[0] == (0, 1, 0)
    assert all(b == (a + 1) % 3 and 0 <= t <= 1 for a, b, t in way)
    assert way[-1][:2] == ((2, 0) if loop else (1, 2))
    assert way[-1][2] < 1 if loop else way[-1][2] == 1


def test_noise_is_blended_to_the_strength_that_it_had() -> None:
    a, b, own = ({"n": RNG.randn(32, 32).astype("f4")} for _ in range(3))
    for t in (0.0, 0.3, 0.5, 1.0):
        mixed = blend_noise(a, b, t, own)["n"]
        assert np.sqrt(np.mean(mixed**2)) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(blend_noise(a, b, 0, own)["n"], a["n"])
    np.testing.assert_allclose(blend_noise(a, a, 0.5, own)["n"], a["n"], rtol=1e-6)
    np.testing.assert_array_equal(blend_noise(a, {}, 1, own)["n"], own["n"])
    assert blend_noise({}, {}, 0.5, own) == {}
