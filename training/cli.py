"""What the commands share: complaints of one line, exit statuses, and options that choose the encoder."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from transformers.utils import logging

from training.errors import InputError

if TYPE_CHECKING:
    from training.encoder import BiEncoder


class OneLineErrors(argparse.ArgumentParser):
    """An argument parser whose complaint is one line: a page of usage hides the line that matters."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def exit_status(command: Callable[[], None]) -> int:
    """Run `command`; 0, or 1 and one line on stderr if the input was bad. Other errors keep their trace."""
    logging.disable_progress_bar()  # Hugging Face's own, for reading weights
    # As an exception, so that a half-written result is cleared away: by default the process just ends.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # what a shell reports for a process that a signal ended


# Where it is used: a command without an encoder need not wait for torch.
def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=None, help="model folder or hub name (default: the bundled MiniLM)")
    add_pooling_options(parser)


def add_pooling_options(parser: argparse.ArgumentParser) -> None:
    from training.encoder import POOLINGS

    parser.add_argument("--pooling", choices=POOLINGS, default=None, help="default: as the model was saved, else mean")
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scores are cosines; default: as the model was saved, else yes",
    )
    parser.add_argument("--max-length", type=int, default=None, help="tokens; default: as saved, else 128")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with a model")


def encoder_from(options: argparse.Namespace) -> BiEncoder:
    """The encoder that the options of `add_encoder_options` choose."""
    from training.encoder import BiEncoder, default_encoder

    return BiEncoder.from_pretrained(options.model or default_encoder(), *pooling_from(options))


def pooling_from(options: argparse.Namespace) -> tuple[str | None, bool | None, int | None, bool]:
    """What the options of `add_pooling_options` say, as `BiEncoder.from_pretrained` takes it after the model."""
    return options.pooling, options.normalize, options.max_length, options.trust_remote_code
