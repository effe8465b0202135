"""Latents: their notation and files, the way from z to ws, mixing, interpolation, directions."""
