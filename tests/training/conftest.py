"""A tiny encoder and a tiny collection, so that the trainer's tests take milliseconds a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from training.encoder import BiEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A tiny model's threads cost more than they save, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands keep is gone with the test."""
    monkeypatch.setenv("WASSRANK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny_encoder() -> Callable[..., BiEncoder]:
    """Makes the same untrained BERT of one layer each time, without dropout unless told."""

    def make(dropout: float = 0.0, **options: object) -> BiEncoder:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token="[UNK]",
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
        )
        return BiEncoder(BertModel(config), fast, **({"max_length": 16} | options))  # type: ignore[arg-type]

    return make


@pytest.fixture
def model_folder(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> Path:
    """The tiny encoder as a folder."""
    folder = tmp_path / "tiny_model"
    folder.mkdir()
    tiny_encoder(dropout=0.1).save_pretrained(folder)
    return folder


@pytest.fixture
def collection_folder(tmp_path: Path) -> Path:
    """12 queries in BEIR layout, 8 for training and 4 for testing, each with a passage of every grade 3 … 0.

    The better a passage's grade, the more of its words are the query's.
    """
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    corpus, queries = [], []
    qrels: dict[str, list[str]] = {split: ["query-id\tcorpus-id\tscore"] for split in ("train", "test")}
    for query in range(12):
        own = [f"w{5 * query + i}" for i in range(5)]
        queries.append({"_id": f"q{query}", "text": " ".join(own)})
        for grade in range(4):
            others = [f"w{(5 * query + 7 + 3 * grade + i) % 60}" for i in range(5 - grade)]
            text = " ".join(own[: grade + 1] + others)
            corpus.append({"_id": f"q{query}_g{grade}", "title": "", "text": text})
            qrels["train" if query < 8 else "test"].append(f"q{query}\tq{query}_g{grade}\t{grade}")
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    for split, lines in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_jsonl(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
