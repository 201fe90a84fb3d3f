"""The constants of a run, the profiles, and what a fingerprint depends on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from research import contract as contracts
from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.contract import ONLY_PROCESSES, Contract, cache_folder, judge_files, judge_sha256, score_fingerprint
from research.device_batch import FITTED_PART, fitted_device_batch
from research.errors import UserError
from research.files import research_folder
from research.gpu_memory import GIB, trainer_bytes
from research.hyperparameters import read_constants
from research.profiles import PROFILES, SIZES, active_contract, choose_profile, contract_for, memory_limit, profile_named
from research.recipes import ORIGINAL, RECIPES, Recipe
from research.starting_hyperparameters import starting_hyperparameters

CPU = contract_for("cpu")
SHA = {"tokenizer_sha256": "a", "val_sha256": "b", "audit_sha256": "c"}


@pytest.mark.parametrize("change", [{"MAX_SEQ_LEN": 128}, {"TIME_BUDGET": 30.0}, {"EVAL_TOKENS": 2**15}, {"VOCAB_SIZE": 4096}])
def test_the_fingerprint_changes_with_the_constants(change: dict[str, float]) -> None:
    assert score_fingerprint(replace(CPU, **change), **SHA) != score_fingerprint(CPU, **SHA)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SHA)
def test_the_fingerprint_changes_with_tokenizer_and_rows(name: str) -> None:
    assert score_fingerprint(CPU, **{**SHA, name: "d"}) != score_fingerprint(CPU, **SHA)


def test_the_fingerprint_changes_with_the_judges_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = score_fingerprint(CPU, **SHA)
    monkeypatch.setattr(contracts, "judge_sha256", lambda: "another")
    assert score_fingerprint(CPU, **SHA) != before


@pytest.fixture
def research(tmp_path: Path) -> Path:
    """A copy of the package's folder."""
    return Path(shutil.copytree(research_folder(), tmp_path / "research", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize(
    "name", ["judge/new.py", "child/new.py", "ipc/a/new.py", "judge/cross_entropy.py", "session.py", "feed.py"]
)
def test_the_judges_code_is_its_folders_whatever_lies_there(name: str, research: Path) -> None:
    before = judge_sha256(research)
    assert before == judge_sha256()
    file = research / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(file.read_text() + "# edited\n" if file.exists() else "")
    assert name in judge_files(research) and judge_sha256(research) != before


@pytest.mark.parametrize("name", [*sorted(ONLY_PROCESSES), "train.py", "sandbox/layers.py", "judge/notes.md"])
def test_what_no_score_depends_on_is_not_the_judges_code(name: str, research: Path) -> None:
    assert (research / name).exists() or name.endswith(".md"), "an exclusion names a file that is there"
    before = judge_sha256(research)
    (research / name).write_text("another")
    assert judge_sha256(research) == before


@pytest.mark.parametrize("change", [{"source": "files:/elsewhere"}, {"profile": "mine"}])
def test_the_fingerprint_does_not_change_with_names(change: dict[str, str]) -> None:
    fingerprint = score_fingerprint(CPU, **SHA)
    assert score_fingerprint(replace(CPU, **change), **SHA) == fingerprint  # type: ignore[arg-type]
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0


def test_the_standard_profile_has_the_originals_constants() -> None:
    contract = contract_for("standard")
    assert (contract.MAX_SEQ_LEN, contract.TIME_BUDGET, contract.EVAL_TOKENS, contract.VOCAB_SIZE) == (
        2048,
        300.0,
        20_971_520,
        8192,
    )
    assert contract.eval_rows == 10_240


def test_budget_and_source_can_be_overridden() -> None:
    contract = contract_for("cpu", budget=30, source="files:/texts")
    assert contract == replace(CPU, TIME_BUDGET=30.0, source="files:/texts")


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(UserError, match="'huge': choose one of standard, small, cpu"):
        profile_named("huge")


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_time(budget: float) -> None:
    with pytest.raises(UserError, match="must be positive"):
        contract_for("cpu", budget=budget)


def test_evaluation_is_whole_rows() -> None:
    with pytest.raises(UserError, match="must be a multiple of MAX_SEQ_LEN"):
        replace(CPU, EVAL_TOKENS=CPU.EVAL_TOKENS + 1)


@pytest.mark.parametrize(
    ("device", "memory", "profile"),
    [
        ("cuda", 80 * 10**9, "standard"), ("cuda:1", 24 * 10**9, "standard"), ("cuda:0", 12 * 10**9, "small"),
        ("mps", 64 * 10**9, "small"), ("cpu", 256 * 10**9, "cpu"),
    ],
)  # fmt: skip
def test_the_hardware_chooses_the_profile(device: str, memory: int, profile: str) -> None:
    assert choose_profile(device, memory) == profile


def test_the_device_batch_halves_until_it_fits() -> None:
    assert fitted_device_batch("standard", 128, None) == 128
    profile = PROFILES["standard"]
    room = profile.model_bytes + 128 * 2048 * profile.device_bytes_per_token
    enough = next(memory for memory in range(30 * GIB, 80 * GIB, GIB // 16) if FITTED_PART * trainer_bytes(memory) >= room)
    assert fitted_device_batch("standard", 128, enough) == 128
    assert fitted_device_batch("standard", 128, enough - GIB // 16) == 64
    assert fitted_device_batch("standard", 128, 1) == 1


@pytest.mark.parametrize(("profile", "memory", "rows"), [("small", 8, 32), ("small", 24, 32), ("standard", 24, 32),
                                                         ("standard", 79, 128)])  # fmt: skip
def test_a_profile_runs_on_the_gpus_that_it_is_for(profile: str, memory: int, rows: int) -> None:
    assert starting_hyperparameters(profile, free_bytes=memory * GIB)["DEVICE_BATCH_SIZE"] == rows


def test_a_limit_of_memory_is_for_gpus_and_leaves_room_to_train() -> None:
    assert memory_limit(None, "cpu") is None
    assert memory_limit(7.5, "cuda:0") == 7.5 * GIB
    with pytest.raises(UserError, match="and these are on cpu: leave it out"):
        memory_limit(8, "cpu")
    for little in (2, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="a run needs 3 GB"):
            memory_limit(little, "cuda:0")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_hyperparameters_go_together(name: str, recipe: Recipe) -> None:
    values = starting_hyperparameters(name, recipe=recipe)
    assert values["PROFILE"] == name and PROFILES[name].sigma > 0 and PROFILES[name].contract.profile == name
    assert values.keys() == {"PROFILE", *ORIGINAL}, "or a switch between profiles would leave something behind"
    total, batch = values["TOTAL_BATCH_SIZE"], values["DEVICE_BATCH_SIZE"]
    assert isinstance(total, int) and isinstance(batch, int)
    assert total % (batch * PROFILES[name].contract.MAX_SEQ_LEN) == 0


def test_the_originals_recipe_has_a_profiles_sizes() -> None:
    assert starting_hyperparameters("standard", recipe="original") == {"PROFILE": "standard", **ORIGINAL}
    values = starting_hyperparameters("cpu", recipe="original")
    assert {name for name in ORIGINAL if values[name] != ORIGINAL[name]} <= set(SIZES)
    assert all(values[name] == starting_hyperparameters("cpu")[name] for name in SIZES)


def test_the_shipped_file_holds_the_standard_recipe() -> None:
    found = read_constants(Path(contracts.__file__).with_name("train.py").read_text())
    assert found == {**found, **starting_hyperparameters("standard")}


def test_a_run_gets_its_contract_from_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    assert active_contract() == contract_for("standard")
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=CPU).to_json())
    assert active_contract() == CPU == Contract.from_json(CPU.to_json())


def test_where_prepared_data_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FARM_CACHE", "AUTORESEARCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "autoresearch-farm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "autoresearch-farm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/autoresearch-farm")
    monkeypatch.setenv("AUTORESEARCH_CACHE", "~/cache")
    assert cache_folder() == Path.home() / "cache" and cache_folder("/given") == Path("/given")
    monkeypatch.setenv("FARM_CACHE", "/newer")
    assert cache_folder() == Path("/newer")


def test_without_a_home_folder_a_cache_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id without a name, as in many containers."""
    for name in ("FARM_CACHE", "AUTORESEARCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 790_000_123)
    for given in (None, "~/cache"):
        with pytest.raises(UserError, match="HOME"):
            cache_folder(given)
    assert cache_folder("/given") == Path("/given")
