"""Collections in the BEIR layout, on the Hugging Face hub: the files as they lie there, of one revision.

    mteb/scifact    mteb/scifact@d56462d    owner/name, and the revision if it is not the newest

A token, where one is needed, comes from the environment (HF_TOKEN) and is read by huggingface_hub alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from training.errors import InputError, first_line

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?")


def is_hub_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def hub_folder(name: str, patterns: tuple[str, ...] = ("corpus.jsonl", "queries.jsonl", "qrels/*.tsv")) -> Path:
    """The folder where a dataset's files lie, fetched if they are not there yet.

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import snapshot_download  # here: whoever names a folder need not have it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name!r}: neither a folder nor a hub name, owner/name or owner/name@revision")
    try:
        folder = snapshot_download(
            found["repository"], repo_type="dataset", revision=found["revision"], allow_patterns=list(patterns)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{name}: no such folder; as a hub name it cannot be had: {first_line(error)}") from error
    return Path(folder)
