"""An encoder from nothing: a small BERT of random weights, and a WordPiece tokenizer built from the texts at hand.

For checking a trainer, a device or an installation where no model can be had; it knows nothing until it is trained.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from training.encoder import BiEncoder

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def scratch_tokenizer(texts: Iterable[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """Lower-case WordPiece over `texts`, of at most `vocabulary` pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = list(SPECIAL.values())
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special))
    ends = [(token, tokenizer.token_to_id(token)) for token in (SPECIAL["cls_token"], SPECIAL["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def scratch_encoder(
    texts: Iterable[str],
    hidden_size: int = 128,
    layers: int = 2,
    max_length: int = 128,
    dropout: float = 0.1,
) -> BiEncoder:
    """A BERT of `layers` layers with random weights (torch's generator), mean pooling, unit embeddings."""
    tokenizer = scratch_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32),
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BiEncoder(BertModel(config), tokenizer, max_length=max_length)
