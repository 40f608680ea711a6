"""Writes graded training data with a language model: for each query, passages at several levels of relevance.

    python -m training.generate --queries queries.jsonl --out DIR --base-url http://host:8000/v1 --model NAME

or `generate(...)`. See README.md here.
"""

from __future__ import annotations

from training.generate.generator import Summary, generate
from training.generate.run import Limits

__all__ = ["Limits", "Summary", "generate"]
