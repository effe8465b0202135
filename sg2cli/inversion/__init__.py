"""GAN inversion: the latent of a real picture."""
