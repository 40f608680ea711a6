"""Writes graded training data with a language model: for each query, passages at several levels of relevance."""
