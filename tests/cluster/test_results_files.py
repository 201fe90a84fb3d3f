"""The results.tsv of a person's checkout follows what is decided elsewhere."""

import subprocess
from pathlib import Path

import pytest

from cluster.home import Home
from cluster.results_files import update_results_tsv
from results.store import Store
from results.tsv import HEADER
from tests.cluster.farm_samples import make_history

BRANCH = "autoresearch/mar8"
MINE = "ddddddd\t3.100000\t0.7\tdiscard\ttried by hand"


@pytest.mark.parametrize(
    ("rows", "is_updated"),
    [([f"{'b' * 7}\t2.500000\t0.1\tkeep\told", MINE], True), ([f"{'a' * 7}\t3.000000\t0.1\tkeep\tbaseline", MINE], False)],
    ids=["with an idea of the branch", "with no more than a baseline, which branches share"],
)
def test_a_checkout_on_no_branch_of_the_farm_keeps_the_rows_of_one_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], is_updated: bool
) -> None:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(checkout)], check=True)
    (checkout / "results.tsv").write_text("\n".join([HEADER, *rows]) + "\n")
    make_history(home)
    monkeypatch.chdir(checkout)
    with Store.open(home) as store:
        assert update_results_tsv(Home(home), store, BRANCH) == []
    table = (checkout / "results.tsv").read_text()
    assert MINE in table and ("ccccccc" in table) == is_updated
