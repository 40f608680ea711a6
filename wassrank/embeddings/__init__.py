"""The losses from embeddings: scores are computed tile by tile, forward and again backward, and never stored."""
