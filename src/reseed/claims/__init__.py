"""Claims: what is claimed, judged from its evidence alone."""
