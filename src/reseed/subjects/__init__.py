"""Subjects: where the data come from, and what is known to be true of them."""
