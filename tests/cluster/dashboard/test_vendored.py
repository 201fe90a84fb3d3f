"""What is vendored is what was released, with its licence."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from cluster.dashboard.site import FOLDER

VENDOR = FOLDER / "static" / "vendor"
LISTED = json.loads((VENDOR / "vendored.json").read_text())


def test_every_vendored_file_is_the_one_that_was_released() -> None:
    for one in LISTED:
        assert hashlib.sha256((VENDOR / one["file"]).read_bytes()).hexdigest() == one["sha256"], one["file"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed here, which fetches releases")
def test_every_vendored_file_is_in_the_release_that_npm_has(tmp_path: Path) -> None:
    releases = [f"{one['package']}@{one['version']}" for one in LISTED]
    packed = subprocess.run(
        ["npm", "pack", "--json", "--prefer-offline", *releases], cwd=tmp_path, capture_output=True, text=True
    )
    if packed.returncode != 0:
        pytest.skip(f"npm has no network here: {packed.stderr[-200:]}")
    told = {one["id"]: one for one in json.loads(packed.stdout)}
    for one, release in zip(LISTED, releases, strict=True):
        assert told[release]["integrity"] == one["release_integrity"], release
        with tarfile.open(tmp_path / told[release]["filename"]) as archive:
            member = archive.extractfile(f"package/{one['path']}")
            assert member is not None and member.read() == (VENDOR / one["file"]).read_bytes(), one["file"]


def test_every_vendored_file_is_listed_with_its_version_and_licence() -> None:
    listed = {one["file"] for one in LISTED} | {name for one in LISTED for name in one["license_files"]}
    assert {path.name for path in VENDOR.iterdir()} == {*listed, "vendored.json"}
    for one in LISTED:
        assert one["package"] and one["version"].count(".") == 2 and one["license"] and one["license_files"]


def test_scripts_evaluate_no_text() -> None:
    """What a strict policy forbids, no script of the pages needs: our own ones have no such call, and htmx's are turned off."""
    for path in (FOLDER / "static").glob("*.js"):
        text = path.read_text()
        assert "eval(" not in text and "new Function" not in text and "innerHTML" not in text, path.name
    config = (FOLDER / "templates" / "base.html").read_text()
    assert '"allowEval":false' in config and '"includeIndicatorStyles":false' in config


def test_templates_hold_no_style_and_no_script_of_their_own() -> None:
    for path in (FOLDER / "templates").rglob("*.html"):
        text = path.read_text()
        assert "style=" not in text and "|safe" not in text and "autoescape" not in text and " on" + "click" not in text, (
            path.name
        )
        assert text.count("<script") == text.count('<script src="/static/'), path.name
