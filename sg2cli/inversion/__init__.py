"""GAN inversion: the latent of a photo, found by gradient descent, and the network tuned to it."""

LATENT = "projected.safetensors"  # of a result; where it is, all is
