"""Small programs in place of the coding agents that are known by name: each prints what the real one prints."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

OUTPUTS: Mapping[str, str] = {
    "claude-code": json.dumps(
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "num_turns": 4,
            "result": "Done.",
            "total_cost_usd": 0.125,
            "usage": {"input_tokens": 10, "output_tokens": 200, "cache_read_input_tokens": 3000},
            "modelUsage": {
                "claude-opus-5-5": {
                    "inputTokens": 10,
                    "outputTokens": 200,
                    "cacheReadInputTokens": 3000,
                    "cacheCreationInputTokens": 400,
                    "costUSD": 0.124,
                },
                "claude-haiku-5": {"inputTokens": 5, "outputTokens": 1, "costUSD": 0.001},
            },
        }
    ),
    "codex": "\n".join(
        [
            '{"type": "thread.started", "thread_id": "t"}',
            '{"type": "turn.started"}',
            '{"type": "item.completed", "item": {"id": "i", "type": "agent_message", "text": "Done."}}',
            '{"type": "turn.completed", "usage": {"input_tokens": 3415, "cached_input_tokens": 3000,'
            ' "cache_write_input_tokens": 400, "output_tokens": 201, "reasoning_output_tokens": 50}}',
        ]
    ),
    "gemini": json.dumps(
        {
            "session_id": "s",
            "response": "Done.",
            "stats": {
                "models": {
                    "gemini-4-pro": {
                        "api": {"totalRequests": 3},
                        "tokens": {"input": 415, "prompt": 3415, "candidates": 151, "cached": 3000, "thoughts": 50, "tool": 0},
                    }
                }
            },
        },
        indent=2,
    ),
    "opencode": "\n".join(
        [
            '{"type": "step_start", "sessionID": "s", "part": {"type": "step-start"}}',
            '{"type": "step_finish", "part": {"cost": 0.1, "tokens": {"input": 10, "output": 150, "reasoning": 50,'
            ' "cache": {"read": 1000, "write": 400}}}}',
            '{"type": "step_finish", "part": {"cost": 0.025, "tokens": {"input": 5, "output": 1, "reasoning": 0,'
            ' "cache": {"read": 2000, "write": 0}}}}',
        ]
    ),
    "pi": "\n".join(
        [
            '{"type":"session","version":3,"id":"s"}',
            '{"type":"message_end","message":{"role":"user","content":"..."}}',
            '{"type":"message_update","message":{"role":"assistant","usage":{"input":9,"cost":{"total":9.0}}}}',
            '{"type":"message_end","message":{"role":"assistant","model":"claude-opus-5-5","stopReason":"stop","usage":'
            '{"input":15,"output":201,"cacheRead":3000,"cacheWrite":400,"totalTokens":3616,"cost":{"total":0.125}}}}',
            '{"type":"turn_end","message":{"role":"assistant","usage":{"input":15,"cost":{"total":0.125}}}}',
        ]
    ),
}
"""What each agent prints, by its name, as its real version of November 2026 does."""

EDIT = """
train = pathlib.Path("research/train.py")
train.write_text(train.read_text().replace("DEPTH = 2", "DEPTH = 3"))
pathlib.Path("research/run.py").write_text("hacked")
pathlib.Path("other.txt").write_text("left behind")
pathlib.Path("IDEA.md").write_text("Deeper\\n\\nDepth helps.")
"""
"""What the stand-ins do with the files."""


def install(folder: Path, program: str, output: str, *, does: str = EDIT, notes: Path | None = None) -> Path:
    """Writes a program that records its arguments and its standard input in `notes`, does something, and prints the output."""
    lines = [f"#!{sys.executable}", "import json, os, pathlib, sys, time"]
    if notes is not None:
        seen = "{'arguments': sys.argv[1:], 'stdin': sys.stdin.read(), 'environment': dict(os.environ)}"
        lines.append(f"pathlib.Path({str(notes)!r}).write_text(json.dumps({seen}))")
    lines += [does, f"sys.stdout.write({output!r})"]
    path = folder / program
    path.write_text("\n".join(lines))
    path.chmod(0o755)
    return path
