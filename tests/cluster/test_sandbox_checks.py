"""What `farm doctor` says of the sandbox on four kinds of host."""

import pytest

from cluster.sandbox_checks import CURES, NO_LINUX, layers_here, lines_before_runs, sandbox_findings
from research.errors import UserError
from research.sandbox.layers import NO_LAYERS, Layers

WHOLE = Layers(identity=True, namespaces=True, landlock=7, seccomp=True)


def test_on_a_host_that_has_everything() -> None:
    [(name, found, cure)] = sandbox_findings(WHOLE)
    assert (name, cure) == ("sandbox", "")
    for layer in ("identity", "namespaces", "landlock 7", "seccomp", "no capabilities", "no new privileges"):
        assert layer in found


@pytest.mark.parametrize(
    ("layers", "layer", "cure"),
    [
        (Layers(identity=False, namespaces=False, landlock=7, seccomp=True, problems={"namespaces": "unshare: Operation not "
         "permitted"}), "no namespaces", "sysctl -w user.max_user_namespaces"),
        (Layers(identity=True, namespaces=True, landlock=0, seccomp=True, problems={"landlock": "the kernel has none"}),
         "no landlock", "lsm="),
    ],
    ids=["without user namespaces", "without Landlock"],
)  # fmt: skip
def test_on_a_host_that_lacks_a_layer(layers: Layers, layer: str, cure: str) -> None:
    first, second = sandbox_findings(layers)
    assert first[0] == "sandbox" and layer.removeprefix("no ") not in first[1]
    assert second[0] == layer and second[1] == next(iter(layers.problems.values())) and cure in second[2]


def test_on_a_mac() -> None:
    [(name, found, cure)] = sandbox_findings(NO_LAYERS)
    assert (name, cure) == ("sandbox", NO_LINUX) and "no other layer" in found


def test_here_each_missing_layer_has_a_cure() -> None:
    layers = layers_here()
    assert set(layers.problems) <= set(CURES)
    assert len(sandbox_findings(layers)) == 1 + len(layers.problems)


def test_what_is_missing_is_said_before_runs_begin() -> None:
    partial = Layers(identity=True, namespaces=False, landlock=7, seccomp=True, problems={"namespaces": "not permitted"})
    assert lines_before_runs("auto", WHOLE) == lines_before_runs("strict", WHOLE) == []
    [line] = lines_before_runs("auto", partial)
    assert "no namespaces" in line and "farm doctor" in line
    assert lines_before_runs("auto", NO_LAYERS) == [f"no sandbox here: {NO_LINUX}"]
    assert "your own rights" in lines_before_runs("off", WHOLE)[0]
    with pytest.raises(UserError, match="no namespaces.*--sandbox strict"):
        lines_before_runs("strict", partial)
