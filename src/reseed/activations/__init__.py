"""Activations: captured at a hook point into shards that say what made them, and read back memory-mapped."""
