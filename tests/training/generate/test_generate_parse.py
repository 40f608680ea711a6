"""Reading an answer: what is asked for, to the letter, or a reason why not."""

from __future__ import annotations

import json

import pytest

from training.generate.parse import AnswerError, RefusalError, schema, texts

KEYS = ["grade_3", "grade_0"]
GOOD = {"grade_3": "A full answer.", "grade_0": "Something else."}


def test_a_good_answer_is_read_in_the_order_asked_for() -> None:
    backwards = dict(reversed(GOOD.items()))
    assert list(texts(json.dumps(backwards), KEYS).items()) == list(GOOD.items())


def test_space_around_answer_and_texts_is_no_part_of_them() -> None:
    assert texts(f"\n {json.dumps({key: f' {text} ' for key, text in GOOD.items()})}\n", KEYS) == GOOD


def test_a_fence_around_the_answer_is_no_part_of_it() -> None:
    assert texts(f"```json\n{json.dumps(GOOD)}\n```", KEYS) == GOOD


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "empty"),
        ("Here are the passages.", "not JSON"),
        (json.dumps(GOOD)[:-1], "not JSON"),
        (json.dumps(GOOD) + " I hope this helps!", "not JSON"),
        ("Sure!\n```json\n" + json.dumps(GOOD) + "\n```", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"grade_3": ' + "1" * 5000 + "}", "not JSON: a number that is too long"),
        (json.dumps([GOOD]), "expected a JSON object, got list"),
        (json.dumps({"grade_3": "x"}), "no 'grade_0'"),
        (json.dumps(GOOD | {"grade_1": "x"}), "unknown key 'grade_1'"),
        (json.dumps(GOOD | {"grade_0": ["x"]}), "'grade_0' is no string but list"),
        (json.dumps(GOOD | {"grade_0": None}), "'grade_0' is no string but NoneType"),
        (json.dumps(GOOD | {"grade_0": " \n"}), "'grade_0' is empty"),
        (json.dumps(GOOD | {"grade_0": "half \ud83d"}), "half a character"),
        (json.dumps(GOOD | {"grade_0": "a\0b"}), "NUL"),
        ('{"grade_3": "x", "grade_3": "y", "grade_0": "z"}', "a key is there twice"),
    ],
)
def test_anything_else_is_malformed(answer: str, problem: str) -> None:
    with pytest.raises(AnswerError, match=problem) as caught:
        texts(answer, KEYS)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot write about this.",
        "I cannot provide passages on this topic.",
        "I can't assist with that request.",
        "I am unable to produce this.",
        "As an AI language model, I do not write such things.",
        "Sorry, but I won't.",
    ],
)
def test_a_refusal_is_told_from_a_malformed_answer(text: str) -> None:
    for answer in (text, json.dumps(GOOD | {"grade_0": text})):
        with pytest.raises(RefusalError) as caught:
            texts(answer, KEYS)
        assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    "text", ["I can't recommend this oven enough.", "Sorry seems to be the hardest word.", "I cannot swim, so I waded."]
)
def test_a_passage_in_the_first_person_is_no_refusal(text: str) -> None:
    assert texts(json.dumps(GOOD | {"grade_0": text}), KEYS)["grade_0"] == text


def test_the_schema_has_the_keys_and_nothing_else() -> None:
    assert schema(KEYS) == {
        "type": "object",
        "properties": {"grade_3": {"type": "string"}, "grade_0": {"type": "string"}},
        "required": KEYS,
        "additionalProperties": False,
    }
