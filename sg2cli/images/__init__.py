"""Images: pixels, image files and their provenance, grids, videos, and the photos of users.

Reading counts the structure of a file before Pillow decodes it: `structure`, `pillow`.
"""
