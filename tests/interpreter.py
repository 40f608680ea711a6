"""Triton's interpreter without its waste."""

from __future__ import annotations

from typing import Any


def quicken() -> None:
    """Whenever a kernel calls a function of its own, Triton's interpreter looks through all of triton.language for what
    to replace, which it has done when the kernel began: half of its time and more. Done once it comes to the same."""
    import triton.language as tl
    from triton.runtime import interpreter

    replace_all = interpreter._patch_lang
    nothing_to_undo = getattr(interpreter, "_LangPatchScope", object)

    def replace_once(function: Any) -> Any:
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if languages and not any(tl.core.is_builtin(language.load) for language in languages):
            return nothing_to_undo()
        return replace_all(function)

    interpreter._patch_lang = replace_once
