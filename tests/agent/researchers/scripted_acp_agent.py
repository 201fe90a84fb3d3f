"""An agent of the Agent Client Protocol that answers from a script, as JSON by method: what real ones do when they fail."""

import json
import sys
from typing import Any

HEALTHY: dict[str, Any] = {
    "initialize": {"result": {"protocolVersion": 1, "authMethods": [{"id": "a", "name": "Log in with Acme"}]}},
    "session/new": {"result": {"sessionId": "s"}},
    "session/prompt": {"result": {"stopReason": "end_turn"}},
}
"""The answers of one that works, and does nothing."""


def main() -> None:
    """Answers each request; at one without an answer it ends."""
    answers = {**HEALTHY, **json.loads(sys.argv[1])}
    for line in sys.stdin:
        request = json.loads(line)
        answer = answers[request["method"]]
        if answer is None:
            sys.exit(3)
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}), flush=True)


if __name__ == "__main__":
    main()
