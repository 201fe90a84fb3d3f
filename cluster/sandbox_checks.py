"""What of the sandbox this host has, and the cure for what it lacks: for `farm doctor`, and before runs begin."""

from collections.abc import Mapping

from research.result import SandboxMode
from research.sandbox.layers import Layers, check_strict, probe
from research.sandbox.visible import view_of_run

CURES: Mapping[str, str] = {
    "namespaces": "let users make them: sysctl -w user.max_user_namespaces=15000 (Debian: kernel.unprivileged_userns_clone=1, "
    "Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0); in a container: --cap-add SYS_ADMIN "
    "--security-opt seccomp=unconfined --security-opt systempaths=unconfined",
    "landlock": "a kernel from 5.13 on, with landlock among lsm= at boot; in a container, a runtime that permits it",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "identity": "runs stay root, without root's rights: start the farm as an ordinary user, or install Python and the checkout "
    "where other users can read them",
}

NO_LINUX = "only Linux has these layers: elsewhere let nobody edit train.py whom you don't trust with your own rights"


def layers_here() -> Layers:
    """The layers that a run on this host would be under."""
    return probe(view_of_run(private=(), gpu_minor=None))


def sandbox_findings(layers: Layers) -> list[tuple[str, str, str]]:
    """Layer, what was found, and the cure (empty where it is well)."""
    if not layers.linux:
        return [("sandbox", "a clean environment, bounds and supervision; no other layer", NO_LINUX)]
    findings = [("sandbox", ", ".join(layers.names()), "")]
    findings += [(f"no {name}", problem, CURES[name]) for name, problem in layers.problems.items()]
    return findings


def lines_before_runs(mode: SandboxMode, layers: Layers) -> list[str]:
    """What a farm says of the sandbox when it starts: nothing where it is whole.

    Raises UserError where `strict` asks for more than there is.
    """
    if mode == "off":
        return ["the sandbox is off: train.py runs with your own rights"]
    if mode == "strict":
        check_strict(layers)
    if not layers.linux:
        return [f"no sandbox here: {NO_LINUX}"]
    if not layers.problems:
        return []
    return [f"the sandbox here has no {' and no '.join(layers.problems)}: farm doctor tells why, and the cure"]
