"""The hyperparameters that a profile starts from, and a train.py that gets them."""

from collections.abc import Mapping

from research.device_batch import fitted_device_batch
from research.hyperparameters import read_constants, write_constants
from research.profiles import PROFILES, SIZES, profile_named
from research.recipes import ORIGINAL, RECIPES, Constant, Recipe


def starting_hyperparameters(profile: str, *, free_bytes: int | None = None, recipe: Recipe = "best") -> dict[str, Constant]:
    """A profile's constants for train.py; DEVICE_BATCH_SIZE fits `free_bytes` of device memory (None: unknown)."""
    chosen = profile_named(profile)
    values = {"PROFILE": profile, **chosen.hyperparameters}
    if recipe == "original":
        values |= {name: value for name, value in ORIGINAL.items() if name not in chosen.sizes}
    batch = values["DEVICE_BATCH_SIZE"]
    assert isinstance(batch, int)
    return values | {"DEVICE_BATCH_SIZE": fitted_device_batch(profile, batch, free_bytes)}


def fit_to_profile(
    train_py: str, profile: str, free_bytes: int | None, *, recipe: Recipe | None = None
) -> tuple[str, dict[str, Constant]]:
    """`train_py` with a profile's starting hyperparameters, and the constants that changed.

    Edited constants stay, except for sizes if the profile changes. A train.py that was made for this profile (by its
    PROFILE) keeps all of its constants unless a `recipe` is given; only a device batch too large for `free_bytes` of device
    memory is lowered. If the profile changes, a `recipe` of None means the best. A train.py without PROFILE, or one that
    does not parse, stays as it is. Raises UserError if a constant to set is missing.
    """
    try:
        present = read_constants(train_py)
    except SyntaxError:
        return train_py, {}
    if "PROFILE" not in present:
        return train_py, {}
    if present["PROFILE"] != profile or recipe is not None:
        start = starting_hyperparameters(profile, free_bytes=free_bytes, recipe=recipe or "best")
        replaced = {"PROFILE", *_not_edited(present)} | set(SIZES if present["PROFILE"] != profile else ())
        wanted = {name: value for name, value in start.items() if name in replaced}
    else:
        batch = present.get("DEVICE_BATCH_SIZE")
        wanted = {"DEVICE_BATCH_SIZE": fitted_device_batch(profile, batch, free_bytes)} if isinstance(batch, int) else {}
    changes = {name: value for name, value in wanted.items() if present.get(name) != value}
    return write_constants(train_py, changes), changes


def _not_edited(constants: Mapping[str, Constant]) -> set[str]:
    """Names of the constants that still have their profile's default value (any DEVICE_BATCH_SIZE counts as default)."""
    profile = constants["PROFILE"]
    if profile not in PROFILES:
        return set()
    starts = [starting_hyperparameters(str(profile), recipe=recipe) for recipe in RECIPES]
    same = {name for name, value in constants.items() if any(start.get(name) == value for start in starts)}
    return same | {"DEVICE_BATCH_SIZE"} & constants.keys()
