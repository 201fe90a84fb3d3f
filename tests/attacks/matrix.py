"""Carries out all attacks and writes a table of what became of them:

uv run python -m tests.attacks.matrix [--without-namespaces | --without-seccomp] [--repeats N] [--only 7] [--name TEXT]
    [--honest] [--output FILE]
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.harness import Harness, Outcome

COLUMNS = ("number", "attack", "tries to", "ended as", "reason", "score less honest score", "layers in force", "stopped",
           "what it achieved")  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n| ---: | --- | --- | --- | --- | ---: | --- | --- | --- |\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:160]


def row(outcome: "Outcome") -> str:
    """One line of the table."""
    attack, run, residue = outcome.attack, outcome.run, residue_of(outcome)
    layers = getattr(run.result, "sandbox", None) if run else None
    cells = [
        str(attack.number),
        attack.name,
        attack.tries,
        run.result.status if run else "no result",
        run.result.reason if run else "",
        "" if outcome.gain is None else f"{-outcome.gain:+.5f}",
        str(layers) if layers else "none",
        "residue" if residue else "yes" if outcome.stopped else "**no**",
        residue or "; ".join(outcome.wrong),
    ]
    return "| " + " | ".join(map(cell, cells)) + " |\n"


def residue_of(outcome: "Outcome") -> str:
    """What docs/threat-model.md lists of this attack as not stopped under the layers that it met; mostly nothing."""
    attack, layers = outcome.attack, getattr(outcome.run.result, "sandbox", None) if outcome.run else None
    missing = {"namespaces": attack.residue_without_namespaces, "seccomp": attack.residue_without_seccomp}
    return attack.residue or next((words for layer, words in missing.items() if words and layer not in (layers or ())), "")


def carry_out(harness: "Harness", options: argparse.Namespace) -> Iterator["Outcome"]:
    import torch

    from tests.attacks.attacks import ATTACKS

    gpus = torch.cuda.device_count()
    for attack in ATTACKS:
        wanted = (options.only is None or attack.number in options.only) and options.name in attack.name
        if wanted and attack.needs_gpus <= gpus:
            for repeat in range(options.repeats):
                yield harness.execute(attack, seed=1 + repeat)


def write_honest(harness: "Harness", repeats: int, table: Path | None) -> int:
    """The table of the honest controls."""
    from tests.attacks.honest import CONTROLS, control_row

    text = "| control | valid | largest difference of val_bpb | what went wrong |\n| --- | ---: | ---: | --- |\n"
    failures = 0
    for control in CONTROLS:
        if control.gpu and harness.runner.device == "cpu":
            continue
        line, fine = control_row(harness, control, repeats)
        text += line
        failures += not fine
        print(line, end="", file=sys.stderr, flush=True)
    if table:
        table.write_text(text)
    else:
        print(text, end="")
    return failures


def main() -> int:
    from tests.attacks.conditions import with_tolerances_of_a_gpu, without_namespaces, without_system_call_filter
    from tests.attacks.harness import Harness  # not above: a judge's process imports this file too

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-namespaces", action="store_true", help="as on a machine that lends no user namespaces")
    parser.add_argument("--without-seccomp", action="store_true", help="as on a machine whose kernel has no seccomp")
    parser.add_argument("--gpu-tolerances", action="store_true", help="let scorers differ by as much as on a GPU")
    parser.add_argument("--device", default="cpu", help="cuda:0: the judge's children use that GPU (default: cpu)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each attack, with a seed each")
    parser.add_argument("--only", type=int, nargs="+", help="the attacks of these numbers")
    parser.add_argument("--name", default="", help="the attacks whose name holds this")
    parser.add_argument("--honest", action="store_true", help="the honest controls instead")
    parser.add_argument("--output", type=Path, help="write the table there, and each line to stderr meanwhile")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    conditions = (
        (options.without_namespaces, without_namespaces),
        (options.without_seccomp, without_system_call_filter),
        (options.gpu_tolerances, with_tolerances_of_a_gpu),
    )
    before = next((condition for wanted, condition in conditions if wanted), None)
    harness = Harness.start(folder, device=options.device, before=before)
    try:
        if options.honest:
            return min(1, write_honest(harness, options.repeats, options.output))
        text, passed, residues = HEAD, 0, 0
        for outcome in carry_out(harness, options):
            text += row(outcome)
            known = bool(residue_of(outcome))
            residues += known
            passed += not outcome.stopped and not (known and not outcome.attack.residue)  # its gain alone is excused already
            print(row(outcome), end="", file=sys.stderr, flush=True)
        text += f"\n{passed} not stopped, beside {residues} that docs/threat-model.md names.\n"
        if options.output:
            options.output.write_text(text)
        else:
            print(text, end="")
        return min(1, passed)
    finally:
        harness.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
