"""A joint video-action diffusion model with one noise level per latent frame."""
