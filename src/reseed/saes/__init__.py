"""Sparse autoencoders: architectures, the trainer of all seeds at once, convergence, export in SAELens' format."""
