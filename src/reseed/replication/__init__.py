"""Published figures of prior systems, made again by their own recipes, faults included, beside the corrected ones."""
