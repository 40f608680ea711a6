"""The bundled trainer on the device: a falling loss, and a saved model that loads back and embeds as before.

The encoder is the one named by --encoder, or a small one of random weights with a tokenizer built from the sample.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from typing import Any

import torch

from benchmarks.gpu.stages import Context, SkippedError, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.store import ROOT, Store
from benchmarks.gpu.timing import short

NEEDED = ("transformers", "accelerate", "tokenizers", "tqdm")
STEPS, BATCH, GROUP = 60, 32, 4
RECORD = "end_to_end"


def run(context: Context) -> dict[str, Any]:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise SkippedError(f"the trainer needs {', '.join(absent)}: pip install 'wassrank[train]'")
    device = "cuda"
    describe()
    return train_all(device, context.store, context.encoder) | {
        "generator": "not there yet" if context.llm is None else f"--llm {context.llm}: there is no generator yet"
    }


def train_all(device: str, store: Store, source: str | None, steps: int = STEPS) -> dict[str, Any]:
    """Each loss on the sample; the stage has failed where one does."""
    from training.losses import LossOptions

    contests = {
        "grade-axis Wasserstein p=1": LossOptions("grade_wasserstein", p=1.0, temperature=0.05),
        "grade-axis Wasserstein p=2": LossOptions("grade_wasserstein", p=2.0, temperature=0.05),
        "InfoNCE": LossOptions("info_nce", temperature=0.05),
    }
    rows = []
    for name, options in contests.items():
        try:
            rows.append({"loss": name} | train_one(options, device, store, source, steps))
        except Exception as error:  # whatever fails with one loss is reported, and the next is tried
            rows.append({"loss": name, "error": short(error)})
    failed = [row["loss"] for row in rows if "error" in row or row["fell"] is not True]
    return {
        "rows": rows,
        "encoder": source or "random weights",
        "status": "failed" if failed else "ok",
        "reason": f"no falling loss, or an error: {', '.join(failed)}" if failed else "",
    }


def train_one(
    options: Any, device: str, store: Store, source: str | None, steps: int, batch: int = BATCH
) -> dict[str, Any]:
    from training.data import read_collection
    from training.encoder import BiEncoder
    from training.groups import GradedGroups
    from training.losses import backend_name, build_loss
    from training.scratch import scratch_encoder
    from training.trainer import fit, training_arguments

    collection = read_collection(ROOT / "training" / "sample", ["train", "test"])
    torch.manual_seed(0)
    texts = [*collection.corpus.values(), *collection.queries.values()]
    encoder = (BiEncoder.from_pretrained(source) if source else scratch_encoder(texts)).to(device)
    folder = store.folder / "model"
    args = training_arguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=2e-5 if source else 1e-3,
        logging_steps=max(1, steps // 12),
        use_cpu=device == "cpu",
    )
    loss = build_loss(options, collection.highest_grade())
    found = fit(encoder, GradedGroups(collection, "train", GROUP, 1), loss, args)
    shutil.rmtree(folder, ignore_errors=True)
    encoder.save_pretrained(folder)
    text = texts[:8]
    difference = float((BiEncoder.from_pretrained(folder).encode(text) - encoder.cpu().encode(text)).abs().max())
    shutil.rmtree(folder)
    # Fell: the last third's mean against the first entry.
    last = found.losses[-(len(found.losses) // 3 or 1) :]
    return {
        "backend": backend_name(options, torch.device(device)),
        "losses": found.losses,
        "fell": all(map(math.isfinite, found.losses)) and sum(last) / len(last) < found.losses[0],
        "seconds_per_step": found.seconds_per_step,
        "loss_share": found.loss_share,
        "reload_difference": difference,
        **({} if difference < 1e-5 else {"error": f"the reloaded model's embeddings differ by {difference:.1e}"}),
    }


if __name__ == "__main__":
    main(RECORD, run)
