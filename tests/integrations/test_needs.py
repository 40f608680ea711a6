"""A framework that is missing is named together with the extra that installs it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

NEEDS = {
    "sentence_transformers": ("sentence_transformers", "st"),
    "cross_encoder": ("sentence_transformers", "st"),
    "multi_vector": ("sentence_transformers", "st"),
    "pylate": ("pylate", "pylate"),
    "trove": ("trove", "trove"),
    "tevatron": ("tevatron", "tevatron"),
}


@pytest.mark.parametrize("module", NEEDS)
def test_a_missing_framework_names_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    framework, extra = NEEDS[module]
    for name in list(sys.modules):
        if name.split(".")[0] == framework:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"wassrank.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, framework, None)  # which makes its import fail
    with pytest.raises(ImportError, match=rf"pip install 'wassrank\[{extra}\]'"):
        importlib.import_module(f"wassrank.integrations.{module}")


def test_wassrank_imports_no_framework() -> None:
    frameworks = {framework for framework, _ in NEEDS.values()}
    code = f"import sys, wassrank, wassrank.integrations; sys.exit(bool({frameworks!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
