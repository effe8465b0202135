"""From latents to images: `rendering` in batches, `drawing` what a command or call is to draw."""

from sg2cli.sampling.rendering import (
    Point,
    batch_size,
    check_settings,
    default_batch,
    locate,
    noise_of,
    render,
    try_render,
    ws_streams,
)

__all__ = ["Point", "batch_size", "check_settings", "default_batch", "locate", "noise_of"]
__all__ += ["render", "try_render", "ws_streams"]
