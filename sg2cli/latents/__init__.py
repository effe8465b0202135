"""Latents: their notation and files, the mapping from z to ws, mixing, interpolation, directions."""
