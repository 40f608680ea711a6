"""What is asked: the same for the same seed, and nothing in a passage's form that tells its level."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from training.errors import InputError
from training.generate.prompts import BUNDLED, Item, Prompts, digest

QUERY = Item("q1", "why is the sky blue")


def test_the_same_seed_and_query_give_the_same_prompts() -> None:
    for ask in (Prompts.conversation, Prompts.query):
        assert ask(Prompts(), QUERY, 1) == ask(Prompts(), QUERY, 1)
    assert Prompts().calls(QUERY, 1) == Prompts().calls(QUERY, 1)


def test_another_seed_or_query_draws_another_form() -> None:
    prompts = Prompts()
    drawn = {json.dumps(prompts.form(Item(f"q{number}", "text"), seed)) for number in range(20) for seed in range(5)}
    assert len(drawn) > 90
    assert prompts.form(QUERY, 1) == prompts.form(Item("q1", "another text"), 1)


def test_every_choice_is_drawn_about_equally_often() -> None:
    prompts = Prompts()
    forms = [prompts.form(Item(f"q{number}", "text"), 0) for number in range(4000)]
    for name, choices in json.loads((BUNDLED / "forms.json").read_text(encoding="utf-8")).items():
        counts = Counter(form[name] for form in forms)
        assert set(counts) == set(choices)
        assert max(counts.values()) < 1.5 * min(counts.values())


def test_no_level_is_asked_for_in_a_form_of_its_own() -> None:
    prompts = Prompts()
    messages, questions = prompts.calls(QUERY, 3)
    forms = {question["content"].split("\n")[2] for question in questions}
    assert len(questions) == len(prompts.levels) == 4
    assert len(forms) == 1
    assert forms.pop().startswith(f"Form of the passage: about {prompts.form(QUERY, 3)['words']} words")


def test_a_model_is_shown_what_each_level_means() -> None:
    prompts = Prompts()
    system = prompts.conversation(QUERY, 0)[0]
    assert system["role"] == "system"
    assert all(level.definition in system["content"] for level in prompts.levels)
    assert [level.grade for level in prompts.levels] == [3, 2, 1, 0]


def test_examples_are_answers_as_they_are_asked_for() -> None:
    prompts = Prompts(examples=2)
    messages = prompts.conversation(QUERY, 0)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    for message in messages[2::2]:
        assert list(json.loads(message["content"])) == [level.key for level in prompts.levels]
    assert len(Prompts(examples=0).conversation(QUERY, 0)) == 2


def test_the_bundled_examples_have_the_length_they_say_at_every_level() -> None:
    for example in json.loads((BUNDLED / "examples.json").read_text(encoding="utf-8")):
        for passage in example["passages"].values():
            assert len(passage.split()) == pytest.approx(example["form"]["words"], rel=0.15)


def test_a_dollar_in_a_query_is_a_dollar() -> None:
    asked = Prompts().conversation(Item("q", "is $query worth $5"), 0)[-1]["content"]
    assert asked.startswith("Query: is $query worth $5\n")


def test_a_changed_file_changes_the_hash(tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLED, tmp_path / "prompts")
    assert Prompts(folder).digest == Prompts().digest
    (folder / "system.txt").write_text("Write. $levels", encoding="utf-8")
    assert Prompts(folder).digest != Prompts().digest
    assert digest(Prompts(folder).conversation(QUERY, 0)) != digest(Prompts().conversation(QUERY, 0))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("levels.json", "[", "not JSON"),
        ("levels.json", '[{"grade": 1}]', "cannot be filled in"),
        ("levels.json", "[]", "one entry a grade"),
        ("levels.json", '[{"grade": -1, "name": "x", "definition": "y"}]', "lacks or misnames '-1'"),
        ("forms.json", '{"words": []}', "cannot be filled in"),
        ("forms.json", '{"words": [1]}', "lacks or misnames 'kind'"),
        ("calls.txt", "$grade $nonsense", "lacks or misnames 'nonsense'"),
        ("query.txt", "costs $ 5", "cannot be filled in"),
        ("examples.json", '[{"query": "x"}]', "lacks or misnames 'passages'"),
        ("system.txt", None, "cannot be read"),
    ],
)
def test_an_unusable_prompt_is_named(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    folder = shutil.copytree(BUNDLED, tmp_path / "prompts")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem) as caught:
        Prompts(folder)
    assert "\n" not in str(caught.value)


def test_more_examples_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="has 3 examples, 4 are asked for"):
        Prompts(examples=4)
