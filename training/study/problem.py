"""What a study is about: a collection, an encoder's embeddings of it, and how the queries are dealt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from training.data import Collection
from training.embedding_cache import embeddings, encoder_key
from training.encoder import BiEncoder
from training.errors import InputError
from training.groups import GradedGroups
from training.index import cache_folder
from training.study.head import Frozen


@dataclass(frozen=True)
class Plan:
    """What a study's results depend on, beside data, encoder and contestants.

    Args:
        folds: parts of the queries, each measured once.
        validation_folds: parts of all other folds, for choosing.
        seeds: trainings of what was chosen; they differ in groups and order.
        epochs: at most; how many is chosen.
        batch_size, group_size: queries a batch, passages a query at most.
        learning_rate: AdamW's, constant. One for all losses: Adam is indifferent to a loss's scale, and how far a run
            goes is chosen by its epochs.
        fold_seed: deals the queries into folds.
        identical: leave passages in that have their query's own id.
        relevant_grade: from which grade up a passage is relevant, to measures that know only that.
    """

    folds: int = 5
    validation_folds: int = 3
    seeds: int = 5
    epochs: int = 12
    batch_size: int = 32
    group_size: int = 8
    learning_rate: float = 1e-3
    fold_seed: int = 0
    identical: bool = False
    relevant_grade: int = 2

    def dealt(self, places: Sequence[int], parts: int) -> list[list[int]]:
        """The places in `parts` parts of like size, at random."""
        shuffled = random.Random(self.fold_seed).sample(places, len(places))
        return [sorted(shuffled[part::parts]) for part in range(parts)]

    def fold(self, number: int, queries: int) -> tuple[list[int], list[int]]:
        """The places that a fold measures, and all others, which train."""
        parts = self.dealt(range(queries), self.folds)
        return parts[number], sorted(place for part in parts[:number] + parts[number + 1 :] for place in part)


def check_judgements(collection: Collection, split: str) -> None:
    """Raises:
    InputError: grades that are no integers, or passages of several corpora, which a head could not tell apart.
    """
    judged = collection.qrels[split]
    if judged.real:
        raise InputError(f"the grades of {split!r} are real numbers: a study measures integers, as trec_eval does")
    if len(judged.corpora) > 1:
        raise InputError(f"the sources of {split!r} must share one corpus: a study searches it as a whole")


@dataclass(frozen=True)
class Problem:
    collection: Collection
    split: str
    frozen: Frozen
    plan: Plan

    def groups(self, seed: int) -> GradedGroups:
        return GradedGroups(self.collection, self.split, self.plan.group_size, seed)

    @property
    def highest_grade(self) -> int:
        return self.collection.qrels[self.split].highest_grade()


def embedded(encoder: BiEncoder, collection: Collection, split: str) -> Frozen:
    """Embeddings of the split's queries and the corpus, from the cache if they lie there."""
    judged = collection.qrels[split]
    passages = embeddings(encoder, collection.corpus.values(), progress="embedding the corpus", cache=cache_folder())
    queries = encoder.encode([judged.query(place) for place in range(len(judged))])
    return Frozen(queries.clone(), passages, encoder.normalize)  # a tensor of inference mode cannot be trained on


def description(collection: Collection, data: Path, split: str, encoder: BiEncoder, plan: Plan) -> dict[str, Any]:
    """All that results depend on, beside the contestants; without this machine's folders."""
    qrels = collection.qrels[split]
    judged = json.dumps([(query, grades) for query, grades in qrels.items()]).encode()
    return {
        "data": data.resolve().name,
        "split": split,
        "queries": len(qrels),
        "passages": len(collection.corpus),
        "judgements": blake2b(judged, digest_size=16).hexdigest(),
        "encoder": encoder_key(encoder),
        "plan": asdict(plan),
    }
