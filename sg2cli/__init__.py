"""sg2: sample, mix, truncate and invert StyleGAN2 networks."""

__version__ = "0.1.0"
