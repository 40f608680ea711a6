"""What is generated: a query's ranking context, passages at several levels of relevance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    grade: int  # 3 perfectly relevant … 0 irrelevant
    text: str


@dataclass(frozen=True)
class RankingContext:
    """The passages written for one query, highest grade first."""

    query_id: str
    query: str
    passages: tuple[Passage, ...]
