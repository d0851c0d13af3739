"""Reflections that a large language model wrote on states of ALFWorld's games."""

import json
import os
import random
from dataclasses import replace

import pytest

from benchmarks.alfworld.reflection import reflection
from benchmarks.alfworld.task import ALFWorld
from benchmarks.alfworld.written import PATH, digest, written
from training.states import State, optimal


def first_state() -> State:
    bench = ALFWorld()
    (state, *_) = optimal(bench.environment("task"), bench.tasks("train")[0], random.Random(0))
    return state


def test_the_file_says_who_wrote_and_every_text_ends_with_a_command() -> None:
    assert "large language model" in json.loads(PATH.read_text())["by"]
    assert len(written()) >= 400
    for name, text in written().items():
        assert len(name) == 32 and len(text.split()) <= 60
        thought, _, following = text.rpartition("Next: ")
        assert len(thought.split()) >= 8 and following.endswith(".")


def test_a_state_is_named_by_what_the_player_sees_and_the_mistake() -> None:
    state = first_state()
    assert digest(state) == digest(replace(state, reflection="Seen.", best=(1,)))
    assert digest(state) != digest(replace(state, mistake="look"))
    other = replace(state.observation, last_result="Nothing happens.")
    assert digest(state) != digest(replace(state, observation=other))


def test_the_teacher_has_the_written_text_where_there_is_one() -> None:
    state = first_state()
    bench, plain = ALFWorld(written=True), ALFWorld()
    assert bench.reflection(state) == reflection(state)  # a generated game: nobody wrote on it
    bench.written = {digest(state): "I look around. Next: look."}
    assert bench.reflection(state) == "I look around. Next: look." != plain.reflection(state)


@pytest.mark.skipif(not os.environ.get("ALFWORLD_DATA"), reason="needs ALFWorld's games")
def test_the_written_ones_are_found_in_the_official_games() -> None:
    bench = ALFWorld(source="official", written=True)
    environment, rng = bench.environment("task"), random.Random(0)
    states = [s for task in bench.tasks("train")[:600] for s in optimal(environment, task, rng)]
    found = [s for s in states if digest(s) in written()]
    assert found and all(bench.reflection(s) == written()[digest(s)] for s in found)
    assert all(bench.reflection(s).endswith(f"{s.observation.options[s.best[0]].text}.") for s in found)
