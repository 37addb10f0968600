"""The Gating Policy Network of NoiseGate: learned per-latent noise schedules."""
