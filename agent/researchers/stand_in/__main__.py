"""Serves the stand-in until it is interrupted: python -m agent.researchers.stand_in --port N [--script FILE]."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from agent.researchers.stand_in.script import Script
from agent.researchers.stand_in.server import ADDRESS, StandIn
from research.errors import UserError
from research.number_options import number_from


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="agent.researchers.stand_in", description="A stand-in for the Messages API.")
    parser.add_argument("--port", type=number_from(0, 65_535, int), default=0, metavar="N", help="default: a free one")
    parser.add_argument("--script", type=Path, metavar="FILE", help="a JSON list of answers (default: edits of train.py)")
    options = parser.parse_args(arguments)
    try:
        script = Script.from_file(options.script) if options.script else Script()
        stand_in = _open(script, options.port)
    except UserError as error:
        print(f"stand_in: {error}", file=sys.stderr)
        return 2
    print(f"A stand-in for the Messages API answers at {stand_in.url} until Ctrl-C. In another terminal:")
    print(f"ANTHROPIC_BASE_URL={stand_in.url} ANTHROPIC_API_KEY=x uv run farm run --researcher claude", flush=True)
    try:
        stand_in.server.serve_forever()
    except KeyboardInterrupt:
        print("stand_in: stopped", file=sys.stderr)
    finally:
        stand_in.server.server_close()
    return 0


def _open(script: Script, port: int) -> StandIn:
    """Raises UserError."""
    try:
        return StandIn(script.answer, port=port, log=lambda line: print(f"{datetime.now():%H:%M:%S} {line}", flush=True))
    except OSError as error:
        raise UserError(f"Port {port} of {ADDRESS} can't be used ({error.strerror}): choose another --port.") from None


if __name__ == "__main__":
    sys.exit(main())
