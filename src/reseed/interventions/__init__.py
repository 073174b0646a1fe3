"""Edits of a model's activations, and the protocol that asks whether a latent moves what its label says."""
