"""The command: python -m training.generate"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from training.cli import OneLineErrors, exit_status
from training.errors import InputError, first_line
from training.generate.backends import Backend, Sampling
from training.generate.generator import MODES, generate
from training.generate.prompts import BUNDLED
from training.generate.run import Limits

BACKENDS = ("http", "local", "vllm", "recorded")


def build_parser() -> argparse.ArgumentParser:
    limits, sampling = Limits(), Sampling()
    parser = OneLineErrors(
        prog="training.generate",
        description="Write passages at several levels of relevance for queries. The same command takes up a run that "
        "was stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--queries", type=Path, help="queries.jsonl, for which passages are written")
    source.add_argument("--from-corpus", type=Path, help="corpus.jsonl, for whose passages queries are written instead")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--shard", type=_shard, default="1/1", metavar="I/N", help="every N-th item from the I-th on")
    parser.add_argument("--at-most", type=int, default=None, help="so many items, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0, help="of examples, forms, and the model's draws")

    asking = parser.add_argument_group("what is asked")
    asking.add_argument(
        "--mode", choices=MODES, default="conversation", help="all levels in one answer, or a call each"
    )
    asking.add_argument("--prompts", type=Path, default=BUNDLED, help="folder of prompts")
    asking.add_argument("--examples", type=int, default=1, help="how many the model is shown")

    model = parser.add_argument_group("the model")
    model.add_argument("--backend", choices=BACKENDS, default="http", help="how it is reached")
    model.add_argument("--model", default=None, help="its name at the endpoint; hub name, folder or GGUF file")
    model.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="http: the endpoint")
    model.add_argument("--api-key-env", default=None, help="http: environment variable of the key (OPENAI_API_KEY)")
    model.add_argument("--structured", default="json_schema", help="http: json_schema, json_object or none")
    model.add_argument("--recording", type=Path, default=None, help="recorded: the file of answers")
    model.add_argument("--record", type=Path, default=None, help="append the answers to this file, for --recording")
    model.add_argument("--temperature", type=float, default=sampling.temperature, help="0 takes the likeliest word")
    model.add_argument("--top-p", type=float, default=sampling.top_p, help="share of the likeliest words drawn from")
    model.add_argument("--max-tokens", type=int, default=limits.max_tokens, help="of an answer")

    trying = parser.add_argument_group("how hard to try")
    trying.add_argument("--concurrency", type=int, default=None, help="requests at once (http 32, vllm 256, local 1)")
    trying.add_argument("--timeout", type=float, default=limits.seconds, help="seconds for a request")
    trying.add_argument("--answers", type=int, default=limits.answers, help="asked for before an item is set aside")
    trying.add_argument("--retries", type=int, default=limits.retries, help="of a request that got no answer")
    return parser


def backend_from(options: argparse.Namespace) -> Backend:
    """The backend that the options choose. Only its own libraries are imported."""
    sampling = Sampling(options.temperature, options.top_p)
    if not options.temperature >= 0 or not 0 < options.top_p <= 1:
        raise InputError("the temperature must be at least 0, and top-p above 0 and at most 1")
    backend: Backend
    if options.backend == "recorded":
        from training.generate.backends.recorded import Recorded

        if options.recording is None:
            raise InputError("--backend recorded needs --recording, the file of answers")
        backend = Recorded(options.recording)
    elif options.model is None:
        raise InputError(f"--backend {options.backend} needs --model")
    elif options.backend == "http":
        from training.generate.backends.http import Http

        backend = Http(
            options.base_url,
            options.model,
            api_key_env=options.api_key_env or "OPENAI_API_KEY",
            key_required=options.api_key_env is not None,
            sampling=sampling,
            structured=options.structured,
        )
    elif options.backend == "local":
        from training.generate.backends.local import Local

        backend = Local(options.model, sampling=sampling)
    else:
        from training.generate.backends.vllm import Vllm

        backend = Vllm(options.model, sampling=sampling)
    if options.record is not None:
        from training.generate.backends.recorded import Recorder

        backend = Recorder(backend, options.record)
    return backend


def run(options: argparse.Namespace) -> None:
    try:
        backend = backend_from(options)
    except ImportError as error:
        missing = f"--backend {options.backend} needs a package that is not installed: {first_line(error)}"
        raise InputError(f"{missing}; pip install 'wassrank[generate]'") from error
    limits = Limits(
        concurrency=backend.concurrency if options.concurrency is None else options.concurrency,
        seconds=options.timeout,
        answers=options.answers,
        retries=options.retries,
        max_tokens=options.max_tokens,
    )
    summary = generate(
        options.queries or options.from_corpus,
        options.out,
        backend,
        from_corpus=options.from_corpus is not None,
        mode=options.mode,
        prompts=options.prompts,
        examples=options.examples,
        seed=options.seed,
        limits=limits,
        shard=options.shard,
        at_most=options.at_most,
    )
    print(
        f"{summary.finished} of {summary.items} finished, {summary.set_aside} set aside, {summary.left} left; "
        f"{summary.tokens.get('out', 0)} tokens written: {options.out}"
    )
    if summary.left:
        raise InputError(f"{summary.left} got no answer; run the same command again for them")


def _shard(text: str) -> tuple[int, int]:
    matched = re.fullmatch(r"(\d+)/(\d+)", text)
    if not matched:
        raise argparse.ArgumentTypeError(f"must be like 1/8, got {text!r}")
    return int(matched[1]), int(matched[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return exit_status(lambda: run(options))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from here: {options.out}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
