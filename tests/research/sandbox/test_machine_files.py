"""What is granted around hidden folders; the mounts themselves are tested with commands, in tests/agent/researchers."""

from pathlib import Path

from research.sandbox.machine_files import granted_around


def test_what_is_beside_a_hidden_folder_is_granted_and_no_link_that_leads_to_it(tmp_path: Path) -> None:
    for name in ("home/runs", "home2", "user/.ssh", "user/work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "user" / "up").symlink_to(tmp_path)
    (tmp_path / "user" / "home").symlink_to(tmp_path / "home")
    (tmp_path / "file").touch()
    hidden = [tmp_path / "home", tmp_path / "user" / ".ssh"]
    granted, listed = granted_around(tmp_path, hidden)
    assert granted == [tmp_path / "file", tmp_path / "home2", tmp_path / "user" / "work"]
    assert listed == [tmp_path, tmp_path / "user"]


def test_a_hidden_folder_itself_is_not_granted_and_one_without_any_is_granted_whole(tmp_path: Path) -> None:
    assert granted_around(tmp_path, [tmp_path]) == ([], [])
    assert granted_around(tmp_path, [tmp_path.parent / "other"]) == ([tmp_path], [])
