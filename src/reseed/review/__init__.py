"""The review: what a verdict does not know by itself, which lives in the history, the locks and the base revision."""
