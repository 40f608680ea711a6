"""The model's answer: the JSON schema it is held to, and its strict reading.

An answer is one JSON object of given keys, each with a text. A grammar at the backend makes most models keep to it;
none makes them write something, so what comes is checked as if there were no grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

# As models phrase it at the start of an answer. A passage may well begin with "I can't": only with what follows here
# is it about the task.
_REFUSAL = re.compile(
    r"(?:i['’]m |i am )?(?:very |so )?sorry,? (?:but )?(?:i|as an ai)\b"
    r"|i(?: am|['’]m) (?:unable|not able) to\b"
    r"|i (?:cannot|can['’]?t|can not|won['’]?t|will not|must decline to) "
    r"(?:help|assist|provide|write|create|generate|comply|fulfil|produce|do that|answer|engage)"
    r"|as an ai\b",
    re.IGNORECASE,
)
# Models without a grammar like to put their JSON into a Markdown fence; the fence is no part of the answer.
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class AnswerError(ValueError):
    """An answer that gives no texts. `kind` is a word for counting, the message says what is wrong."""

    kind = "malformed"


class RefusalError(AnswerError):
    """The model declined."""

    kind = "refused"


def schema(keys: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these keys, each a string."""
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": list(keys),
        "additionalProperties": False,
    }


def texts(answer: str, keys: Sequence[str]) -> dict[str, str]:
    """The texts of an answer, by key, in the order of `keys`.

    Raises:
        RefusalError: it reads like one, as a whole or in one of its texts.
        AnswerError: anything but one JSON object of exactly these keys, each with a text that is not blank and
            can be written as UTF-8.
    """
    answer = answer.strip()
    if not answer:
        raise AnswerError("the answer is empty")
    if _REFUSAL.match(answer):
        raise RefusalError("the model declined")
    fenced = _FENCE.fullmatch(answer)
    try:
        found = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_no_key_twice)
    except RecursionError as error:
        raise AnswerError("not JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise AnswerError(f"not JSON: {error.msg} at character {error.pos}") from error
    except AnswerError:
        raise
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise AnswerError("not JSON: a number that is too long") from error
    if not isinstance(found, dict):
        raise AnswerError(f"expected a JSON object, got {type(found).__name__}")
    if missing := [key for key in keys if key not in found]:
        raise AnswerError(f"no {missing[0]!r} in the answer")
    if unknown := [key for key in found if key not in keys]:
        raise AnswerError(f"unknown key {unknown[0]!r} in the answer")
    return {key: _text(found[key], key) for key in keys}


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise AnswerError(f"{key!r} is no string but {type(value).__name__}")
    text = value.strip()
    if not text:
        raise AnswerError(f"{key!r} is empty")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise AnswerError(f"{key!r} holds half a character or a NUL")
    if _REFUSAL.match(text):
        raise RefusalError(f"the model declined to write {key!r}")
    return text


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise AnswerError("a key is there twice")
    return found
