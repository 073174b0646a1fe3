"""Text: from raw data to token shards, with the positions that matter named and the quality checked."""
