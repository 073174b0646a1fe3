"""Stability: how far independently seeded SAEs agree, above which null, how certainly, and whether it settled."""
