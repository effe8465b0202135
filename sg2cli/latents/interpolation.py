"""Interpolation: a path that starts at the first latent and passes through all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from sg2cli.errors import UsageError

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array

Method = Literal["linear", "slerp", "cubic"]
METHODS: tuple[str, ...] = get_args(Method)


def frame_count(keys: int, per_latent: int, loop: bool) -> int:
    """The number of frames of which every `per_latent`-th shows a key latent."""
    return per_latent * keys if loop else per_latent * (keys - 1) + 1


def key_frames(keys: int, frames: int, loop: bool) -> list[int]:
    """The frames that show the key latents, spaced as evenly as whole numbers allow.

    A loop ends one frame before the first latent returns; the list then ends with `frames`.
    UsageError for too few latents or frames.
    """
    if keys < 2:
        raise UsageError("an interpolation needs at least two latents, such as 85,265")
    if frames < keys:
        raise UsageError(f"{frames} frames are too few to pass through {keys} latents")
    if loop:
        return [(2 * i * frames + keys) // (2 * keys) for i in range(keys + 1)]
    return [(2 * i * (frames - 1) + keys - 1) // (2 * (keys - 1)) for i in range(keys)]


def steps(keys: int, frames: int, loop: bool) -> Iterator[tuple[int, int, float]]:
    """For each frame, the two latents that it lies between, and its position, 0 to 1."""
    at = key_frames(keys, frames, loop)
    segment = 0
    for frame in range(frames):
        while segment < len(at) - 2 and frame >= at[segment + 1]:
            segment += 1
        t = (frame - at[segment]) / (at[segment + 1] - at[segment])
        yield segment, (segment + 1) % keys, t


def interpolate(
    keys: Sequence[Array],
    frames: int,
    method: Method,
    loop: bool = False,
    centre: Array | None = None,
) -> Iterator[Array]:
    """Positions [...] between keys [...], computed one at a time.

    A frame that shows a key latent equals it exactly. slerp turns each row around
    `centre` (0 if not given: z; w_avg for w) while its distance changes evenly (Shoemake 1985);
    cubic is a natural spline, or with `loop` a closed one.
    """
    import numpy as np

    spline = None
    if method == "cubic":
        from scipy.interpolate import CubicSpline

        knots = np.stack([*keys, keys[0]] if loop else list(keys)).astype(np.float64)
        bounds = "periodic" if loop else "natural"
        spline = CubicSpline(np.arange(len(knots)), knots, bc_type=bounds)
    for first, second, t in steps(len(keys), frames, loop):
        if t in (0, 1):
            yield keys[second if t else first]
        elif spline is not None:
            yield spline(first + t).astype(np.float32)
        elif method == "slerp":
            yield slerp(keys[first], keys[second], t, 0 if centre is None else centre)
        else:
            yield ((1 - t) * keys[first] + t * keys[second]).astype(np.float32)


def slerp(a: Array, b: Array, t: float, centre: Array | float = 0) -> Array:
    """Between a [...,dim] and b at t, on an arc around a centre; opposite rows go straight."""
    import numpy as np

    a, b = (a - centre).astype(np.float64), (b - centre).astype(np.float64)
    norm_a, norm_b = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    unit_a, unit_b = a / np.maximum(norm_a, 1e-12), b / np.maximum(norm_b, 1e-12)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(axis=-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    turned = np.sin((1 - t) * angle) * unit_a + np.sin(t * angle) * unit_b
    on_arc = turned / np.where(sine < 1e-6, 1, sine) * ((1 - t) * norm_a + t * norm_b)
    straight = (1 - t) * a + t * b
    return (np.where(sine < 1e-6, straight, on_arc) + centre).astype(np.float32)


def blend_noise(
    a: Mapping[str, Array], b: Mapping[str, Array], t: float, own: Mapping[str, Array]
) -> dict[str, Array]:
    """Interpolate the noise maps of two latents, scaled to keep their standard deviation.

    A sum of independent maps would be weaker by up to sqrt(2). A missing map is replaced by the
    checkpoint's `own`.
    """
    import numpy as np

    def strength(x: Array) -> float:
        return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))

    blended = {}
    for name in sorted(a.keys() | b.keys()):
        first, second = a.get(name, own[name]), b.get(name, own[name])
        between = (1 - t) * first + t * second
        wanted = (1 - t) * strength(first) + t * strength(second)
        scale = wanted / max(strength(between), 1e-12)
        blended[name] = (between * scale).astype(np.float32)
    return blended
