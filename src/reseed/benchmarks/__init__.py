"""Benchmarks: what others measure (SAEBench), on our SAEs, beside the controls without which a score says nothing."""

from jaxtyping import config

# With jaxtyping's checks on, SAEBench 0.6.0's probes crash under every beartype from 0.18.5 on.
config.update("jaxtyping_disable", True)
