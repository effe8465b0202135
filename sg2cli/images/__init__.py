"""Images: pixels, image files with provenance, grids, videos and photos.

The structure of a file is checked before Pillow decodes it: see `structure` and `pillow`.
"""
