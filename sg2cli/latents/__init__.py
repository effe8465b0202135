"""Latents: notation, files, the mapping from z to ws, mixing, interpolation, directions."""
