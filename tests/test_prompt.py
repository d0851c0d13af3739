import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.prompt import CUT, policy_prompt, reflection_prompt


def words(text: str) -> int:
    return len(text.split())


COUNTS = [len, words, lambda text: len(text.encode()) // 3 + 1]
"""Counters that add up exactly, that ignore boundaries, and that round."""


def observation(options: int = 3, history: int = 2, result: str = "src: a.py  b.py") -> Observation:
    return Observation(
        "Where is the port\nconfigured?",
        "src",
        tuple(f"open file{i}.py" for i in range(history)),
        result,
        tuple(Option(f"open module_{i}.py (line {i}: port = {i})", "open") for i in range(options)),
    )


def test_everything_in_order_when_there_is_room():
    (page,) = policy_prompt(observation(), "Look at b.py.", count=len, budget=10_000)
    assert page.text == (
        "Question: Where is the port configured?\n"
        "Location: src\n"
        "History: open file0.py; open file1.py\n"
        "Last result: src: a.py  b.py\n"
        "Reflection: Look at b.py.\n"
        "Options:\n"
        "1. open module_0.py (line 0: port = 0)\n"
        "2. open module_1.py (line 1: port = 1)\n"
        "3. open module_2.py (line 2: port = 2)\n"
        "Choice:"
    )
    assert page.indices == (0, 1, 2) and page.labels == ("1", "2", "3")


def test_history_goes_before_the_last_result_and_both_before_the_rest():
    view = observation(history=20, result="found " * 60)
    full = len(policy_prompt(view, "Hm.", count=len, budget=10**6)[0].text)

    def shown(budget: int) -> str:
        (page,) = policy_prompt(view, "Hm.", count=len, budget=budget)
        assert len(page.text) <= budget
        return page.text

    less = shown(full - 50)
    assert CUT in less and "file19" in less and "file0.py" not in less and "found " * 59 in less
    without = shown(full - 330)
    assert "History" not in without and "found " * 50 in without
    bare = shown(full - 680)
    assert "Last result" not in bare and "Reflection: Hm." in bare and "Location: src" in bare
    for text in (less, without, bare):
        assert text.startswith("Question: Where is the port configured?\n")
        assert "3. open module_2.py (line 2: port = 2)\n" in text


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)  # surrogates too
observations = st.builds(
    Observation,
    task=texts,
    location=texts,
    history=st.lists(texts, max_size=6).map(tuple),
    last_result=st.text(max_size=400),
    options=st.lists(st.builds(Option, text=texts, kind=st.just("x")), min_size=1, max_size=40).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(observations, texts, st.integers(60, 900), st.sampled_from(COUNTS), st.booleans(), st.integers(1, 50))
def test_never_over_budget_and_never_an_option_lost(view, reflection, budget, count, numbered, limit):
    labels = [str(i + 1) for i in range(limit)] if numbered and limit > 40 else None
    try:
        pages = policy_prompt(view, reflection, count=count, budget=budget, labels=labels, numbered=numbered)
    except ModelError:
        longest = max(len(o.text.encode("utf-8", "replace")) for o in view.options)
        assert budget < 200 + len(view.task.encode("utf-8", "replace")) + longest
        return
    assert [i for page in pages for i in page.indices] == list(range(len(view.options)))
    question = " ".join(view.task.encode("utf-8", "replace").decode().split())
    for page in pages:
        assert count(page.text) <= budget
        assert page.text.startswith(f"Question: {question}\n")
        assert page.state == pages[0].state
        for i, line in zip(page.indices, page.options, strict=True):
            whole = " ".join(view.options[i].text.encode("utf-8", "replace").decode().split())
            assert line.endswith(f"{whole}\n")


@settings(max_examples=100, deadline=None)
@given(observations, st.integers(200, 900), st.sampled_from(COUNTS))
def test_a_reflection_prompt_fits_too(view, budget, count):
    prompt = reflection_prompt(view, count=count, budget=budget)
    assert count(prompt) <= budget
    assert prompt.startswith("Question: ") and prompt.endswith("Reflection:")


def test_ten_thousand_options_on_even_pages():
    view = observation(options=10_000)
    pages = policy_prompt(view, count=words, budget=900)
    assert sum(len(page.indices) for page in pages) == 10_000
    sizes = [len(page.indices) for page in pages]
    assert max(sizes) - min(sizes) < 20
    assert all(page.labels[0] == "1" for page in pages)


def test_pages_keep_the_reflection():
    pages = policy_prompt(observation(options=100), "Look at module 7.", count=len, budget=600)
    assert len(pages) > 8
    assert all("Location: src\n" in p.text and "Reflection: Look at module 7.\n" in p.text for p in pages)


def test_labels_name_the_options_and_limit_the_page():
    pages = policy_prompt(observation(options=7), count=len, budget=10_000, labels=["A", "B", "C"])
    assert [page.indices for page in pages] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert pages[2].options == ("A. open module_6.py (line 6: port = 6)\n",)


def test_a_final_round_shows_only_the_options_asked_for():
    (page,) = policy_prompt(observation(options=7), count=len, budget=10_000, options=[5, 2])
    assert page.indices == (5, 2)
    assert page.options[0] == "1. open module_5.py (line 5: port = 5)\n"


def test_unnumbered_options_do_not_depend_on_their_order():
    view = observation()
    turned = Observation(view.task, view.location, view.history, view.last_result, view.options[::-1])
    (one,) = policy_prompt(view, count=len, budget=10_000, numbered=False)
    (two,) = policy_prompt(turned, count=len, budget=10_000, numbered=False)
    assert one.options == two.options[::-1] and one.state == two.state


def test_an_option_that_alone_exceeds_the_budget_is_named():
    view = Observation("Where?", "", (), "", (Option("open " + "x" * 500, "open"),))
    with pytest.raises(ModelError, match=r"option 'open xxx.*does not fit into the model's 200 tokens"):
        policy_prompt(view, count=len, budget=200)
    with pytest.raises(ModelError, match="the question 'Where are x"):
        reflection_prompt(Observation("Where are " + "x" * 500, "", (), "", ()), count=len, budget=200)


def test_the_reflection_prompt_shows_the_first_options():
    prompt = reflection_prompt(observation(options=40), count=len, budget=10_000)
    assert "- open module_11.py" in prompt and "module_12" not in prompt
    assert prompt.endswith("- and 28 more\nReflection:")
    assert "History: open file0.py; open file1.py" in prompt and "Last result: src: a.py  b.py" in prompt
