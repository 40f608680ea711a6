"""When two texts count as the same, and as nearly the same.

The same: their words in order, whatever case, punctuation and spacing. Nearly the same: the Jaccard index of their
character shingles (Broder, "On the resemblance and containment of documents", 1997), |A ∩ B| / |A ∪ B| over the sets of
all pieces of SHINGLE characters. Characters, not words: one rule then holds for scripts that do not separate words.
"""

from __future__ import annotations

import re
import unicodedata

SHINGLE = 5  # characters: about a word, so that a shingle that is shared by chance is rare

_NO_WORD = re.compile(r"[\W_]+")


def normal_form(text: str) -> str:
    """The words of a text, in compatibility form and without case, separated by one space."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(normal: str) -> frozenset[str]:
    """All pieces of SHINGLE characters; of a shorter text, the text itself."""
    return frozenset(normal[i : i + SHINGLE] for i in range(max(1, len(normal) - SHINGLE + 1)))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """The Jaccard index of two sets of shingles, 0 to 1."""
    return len(a & b) / len(a | b)
