"""Benchmarks: what others measure (SAEBench), on our SAEs, beside the controls without which a score says nothing."""

import warnings

from jaxtyping import config

# With jaxtyping's checks on, SAEBench 0.6.0's probes crash under every beartype from 0.18.5 on.
config.update("jaxtyping_disable", True)

# Two warnings that say nothing about a result, thousands of times a run: SAEBench spells out the penalty that is
# scikit-learn's default, and SAELens' store is made for training, which nothing does with it here.
warnings.filterwarnings("ignore", message="'penalty' was deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message="The training dataset contains fewer samples", category=UserWarning)
