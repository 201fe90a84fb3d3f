"""What a run's children may write, and what of it is counted."""

from pathlib import Path

import pytest

from research.data.prepared import PreparedData
from research.judge.confinement import COMPILING, Confinement
from research.judge.processes import CHILDREN
from research.kernels import compile_cache
from research.run import SHIPPED_TRAIN_PY
from tests.research.judged import TRAIN_PY, Runner, variant


@pytest.mark.parametrize("trusted", [True, False])
def test_all_that_a_child_writes_counts_for_the_disk_limit(
    run: Runner, judged_data: PreparedData, tmp_path: Path, trusted: bool
) -> None:
    """Also what it compiles for later runs: the limit is that of the child's folder."""
    train_py = SHIPPED_TRAIN_PY.read_text() if trusted else TRAIN_PY
    spec = run.spec()
    confinement = Confinement(spec, run.placement(spec), judged_data, train_py, tmp_path, disk_bytes=2**30)
    for name in CHILDREN:
        folder = tmp_path / name
        folder.mkdir()
        sandbox = confinement.sandbox(name, folder)
        compiled = None if sandbox is None else sandbox.compiled
        assert sandbox is None or (compiled is not None) == (trusted and name in COMPILING)
        assert compiled is None or compiled.is_relative_to(folder)


COMPILES = """
    here = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    (here / "of-a-child").write_text(str(here))
"""


def test_what_a_trusted_run_compiles_is_kept(run: Runner, judged_data: PreparedData) -> None:
    """From the folder that it sees under one name in every run, though it lies in the child's own."""
    text = "import os\nfrom pathlib import Path\n" + variant(
        ("    model = build_model()", f"{COMPILES}    model = build_model()")
    )
    shared = compile_cache.shared_folder(judged_data.folder.parents[1], run.device)
    done = run(text, before=trust_all)
    assert done.result.status == "ok", done.result
    kept = shared / "of-a-child"
    assert (kept.read_text() == "/autoresearch-compiled") == ("namespaces" in done.result.sandbox)
    kept.unlink()


def trust_all() -> None:
    """In a judge's process: any text counts as the shipped one."""
    compile_cache.is_trusted = lambda train_py: True
