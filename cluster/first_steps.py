"""What `farm` alone prints."""

from research.command_hints import to_type

FIRST_STEPS = {
    "demo": "the whole workflow in five minutes, on any machine",
    "doctor": "what works on this machine, and how to fix what doesn't",
    "run": "research until you stop it (Ctrl-C)",
}


def first_steps() -> str:
    """What `farm` alone prints."""
    what = (
        "The autoresearch farm: each GPU's loop edits research/train.py, trains it for a fixed time, and keeps what is better."
    )
    steps = "\n".join(f"  {to_type(f'farm {name:<10}')}{help}" for name, help in FIRST_STEPS.items())
    return f"{what}\n\nFirst steps:\n{steps}\n\nAll commands: {to_type('farm --help')}\n"
