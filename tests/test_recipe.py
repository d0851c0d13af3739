"""Recipes, and the runs that hold on to them."""

import json
import math
from pathlib import Path

import pytest

from repoagent.errors import InputError
from tests.forked import Forked
from training import recipe as recipes
from training.rlft_settings import RLFTSettings
from training.stages import PARTS, STAGES, Run

SMALL = '[benchmark]\nname = "taxi"\n[tasks]\nstates = 20\n[policy]\nsteps = 1\n'


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


def load(file: Path, text: str, *changes: str) -> recipes.Recipe:
    file.write_text(SMALL + text)
    return recipes.load_recipe(file, changes)


@pytest.fixture
def alfworld_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place for ALFWorld's games, without which their recipe is refused at once; there are none in it."""
    (tmp_path / "json_2.1.1").mkdir()
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_that_come_along_are_whole(name: str, alfworld_data: None) -> None:
    recipe = recipes.load_recipe(name)
    assert recipe.keys() == recipes.defaults().keys()
    recipes.rlft_settings(recipe).check()
    recipes.teacher_settings(recipe)
    for player in ("reflector", "policy"):
        if recipe[player]["enabled"] and not (player == "reflector" and recipe["model"]["reflector"]):
            assert recipes.sft_settings(recipe, player).steps > 0
    Run(Path("nowhere"), recipe | {"run": recipe["run"] | {"threads": 0}})  # its benchmark takes its options


def test_there_are_recipes() -> None:
    assert "taxi-tiny" in recipes.names()


def test_what_is_left_out_has_its_default(small: Path) -> None:
    recipe = recipes.load_recipe(small)
    assert recipe["tasks"] == {"states": 20, "negatives": recipes.TaskSettings().negatives, "mistakes": 1}
    assert recipes.rlft_settings(recipe) == RLFTSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rlft]\nupdate = 3\n", "unknown key 'rlft.update', did you mean 'updates'?"),
        ("[rltf]\nupdates = 3\n", "unknown part 'rltf', did you mean 'rlft'?"),
        ("[rlft]\nxyzzy = 3\n", "known are updates, batch"),
        ('[rlft]\nupdates = "3"\n', 'rlft.updates is "3": it must be a int'),
        ("[rlft]\nupdates = 3.5\n", "rlft.updates is 3.5: it must be a int"),
        ("[rlft]\nupdates = true\n", "rlft.updates is true: it must be a int"),
        ("[rlft]\ndecay = 1\n", "rlft.decay is 1: it must be a bool"),
        ("[model]\nbase = 3\n", "model.base is 3: it must be a str"),
        ("[rlft\n", "is not TOML"),
    ],
)
def test_mistakes_are_named(text: str, message: str, small: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(small, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_that_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "flat.toml"
    file.write_text("rlft = 3\n")
    with pytest.raises(InputError, match=r"write \[rlft\]"):
        recipes.load_recipe(file)


def test_whole_numbers_are_fine_where_fractions_are(small: Path) -> None:
    rate = load(small, "[rlft]\nlearning_rate = 1\n")["rlft"]["learning_rate"]
    assert rate == 1.0 and isinstance(rate, float)


def test_set_changes_a_key(small: Path) -> None:
    changes = (
        "rlft.updates=7", "rlft.learning_rate = 1e-2", "rlft.trainer=ppo", 'model.base="a b"',
        "rlft.decay=true",
    )  # fmt: skip
    recipe = load(small, "[rlft]\nupdates = 3\n", *changes)
    wanted = {"updates": 7, "learning_rate": 0.01, "trainer": "ppo", "decay": True}
    assert {k: recipe["rlft"][k] for k in wanted} == wanted
    assert recipe["model"]["base"] == "a b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rlft.updates", "write part.key=value"),
        ("updates=3", "write part.key=value"),
        ("rlft.updates=many", 'rlft.updates is "many": it must be a int'),
        ("rlft.learningrate=1", "did you mean 'learning_rate'?"),
    ],
)
def test_set_that_cannot_be_read(change: str, message: str, small: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(small, "", change)
    assert message in str(caught.value)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe nothing: .*taxi-tiny"):
        recipes.load_recipe("nothing")
    with pytest.raises(InputError, match="name a recipe with --recipe"):
        recipes.load_recipe(None)
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(InputError, match=r"\[benchmark\] needs a name"):
        recipes.load_recipe(tmp_path / "empty.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match="cannot read the recipe"):
        recipes.load_recipe(tmp_path / "folder.toml")


def test_options_of_the_benchmark_are_checked_by_it(small: Path) -> None:
    recipe = recipes.load_recipe(small, ["benchmark.horizon=9"])
    assert Run(Path("nowhere"), recipe).benchmark.environment("pickup").horizon == 9  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"benchmark 'taxi': .*horizn"):
        Run(Path("nowhere"), recipes.load_recipe(small, ["benchmark.horizn=9"]))


# -- a run and its recipe ------------------------------------------------------------------------


def begin(out: Path, stage: str, recipe: recipes.Recipe, name: str = "", **options: bool) -> Run:
    run = Run(out, recipe, name=name)
    run.begin(stage, **options)
    return run


def test_a_stage_depends_on_the_parts_before_it_alone(small: Path, tmp_path: Path) -> None:
    out, old = tmp_path / "run", recipes.load_recipe(small)
    for stage in STAGES:
        begin(out, stage, old)
    begin(out, "policy", recipes.load_recipe(small, ["rlft.updates=3"]))  # not yet of its concern
    for stage, change in (
        ("rlft", "rlft.updates=3"),
        ("policy", "model.width=8"),
        ("tasks", "tasks.states=9"),
    ):
        with pytest.raises(InputError) as caught:
            begin(out, stage, recipes.load_recipe(small, [change]))
        key = change.partition("=")[0]
        part, _, name = key.partition(".")
        shown = f"{key} ({old[part][name]} -> {change.partition('=')[2]})"
        assert str(caught.value).count(key) == 1 and shown in str(caught.value)
    assert list(PARTS) == list(STAGES)


def test_what_has_not_begun_takes_the_recipe_of_the_run(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert Run.recorded(out) is None
    recipe = recipes.load_recipe(small, ["rlft.updates=3"])
    begin(out, "tasks", recipe)
    assert Run.recorded(out) == Run.recorded(out, "other") == recipe
    begin(out, "rlft", recipes.load_recipe(None, ["rlft.updates=5"], Run.recorded(out, "long")), "long")
    recorded = {name: Run.recorded(out, name) for name in ("", "long", "other")}
    assert {name: r and r["rlft"]["updates"] for name, r in recorded.items()} == {
        "": 3,
        "long": 5,
        "other": 3,
    }


def test_starting_over_removes_what_came_after(small: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", recipes.load_recipe(small)
    made = ["reflector/model", "base", "policy/model", "rlft/best", "rlft-other/best", "rlft-third/best"]
    for stage in STAGES:
        begin(out, stage, recipe)
    begin(out, "rlft", recipe, "other")
    for folder in made:
        (out / folder).mkdir(parents=True)
    begin(out, "rlft", recipe, "other", clean=True)
    assert [f for f in made if not (out / f).exists()] == ["rlft-other/best"]
    begin(out, "policy", recipes.load_recipe(small, ["policy.steps=3"]), clean=True)
    assert [f for f in made if (out / f).exists()] == ["reflector/model", "base"]
    assert not (out / "recipes/rlft-other.json").exists() and not (out / "recipes/rlft.json").exists()


def test_never_refuses_what_has_begun(small: Path, tmp_path: Path) -> None:
    recipe = recipes.load_recipe(small)
    begin(tmp_path / "run", "tasks", recipe, resume=False)
    with pytest.raises(InputError, match="--resume"):
        begin(tmp_path / "run", "tasks", recipe, resume=False)


def test_a_broken_record_is_named(small: Path, tmp_path: Path) -> None:
    recipe = recipes.load_recipe(small)
    begin(tmp_path / "run", "tasks", recipe)
    (tmp_path / "run/recipes/tasks.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        begin(tmp_path / "run", "tasks", recipe)


def test_through_the_command(small: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    with Forked() as run:
        assert run("train", "tasks", "--out", out, log=log)[0] == 2  # no recipe yet
        code, text = run("train", "tasks", "--out", out, "--recipe", small, log=log)
        assert code == 0 and "14 states" in text, text
        before = (out / "tasks.jsonl").read_bytes()
        assert run("train", "tasks", "--out", out, log=log)[0] == 0
        assert (out / "tasks.jsonl").read_bytes() == before

        code, text = run("train", "tasks", "--out", out, "--set", "tasks.states=30", log=log)
        assert code == 2 and "tasks.states (20 -> 30)" in text
        assert len(text.strip().splitlines()) == 1, text
        code, text = run("train", "tasks", "--out", out, "--resume", "never", log=log)
        assert code == 2 and len(text.strip().splitlines()) == 1
        assert (out / "tasks.jsonl").read_bytes() == before

        code, text = run("train", "reflections", "--out", out, log=log)
        assert code == 0, text
        code, text = run("train", "tasks", "--out", out, "--clean", "--set", "tasks.states=30", log=log)
        assert code == 0 and "21 states" in text
        assert not (out / "reflections.jsonl").exists()
        code, text = run("train", "sft-policy", "--out", out, log=log)
        assert code == 2 and "run the stage before" in text
        states = [json.loads(line) for line in (out / "tasks.jsonl").read_text().splitlines()]
        assert len(states) == 30 - math.floor(30 * 0.3)


def test_how_a_teacher_is_asked_and_keys_that_came_later_do_not_part_a_run_from_its_recipe() -> None:
    old = recipes.load_recipe("taxi-tiny")
    del old["rlft"]["replay_clip"]  # as an older version recorded it
    new = recipes.load_recipe("taxi-tiny", ["teacher.concurrency=2", "teacher.retries=0"])
    assert recipes.differences(old, new, ("teacher", "rlft")) == []
    other = recipes.load_recipe("taxi-tiny", ["teacher.temperature=0.5", "rlft.replay_clip=3.0"])
    assert [d.partition(" ")[0] for d in recipes.differences(old, other, ("teacher", "rlft"))] == [
        "teacher.temperature",
        "rlft.replay_clip",
    ]


def test_a_wrong_setting_of_sft_names_its_part() -> None:
    with pytest.raises(InputError, match=r"\[policy\] steps is 0"):
        recipes.sft_settings(recipes.load_recipe("taxi-tiny", ["policy.steps=0"]), "policy")
