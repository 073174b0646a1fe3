"""Domain coverage: which parts of its domain the SAEs of a subject explain, and what a relabelling does to latents."""
