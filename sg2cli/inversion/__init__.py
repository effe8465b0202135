"""GAN inversion: find the latent of a photo by gradient descent, and tune the network."""

LATENT = "projected.safetensors"  # written last: its presence means that a result is complete
