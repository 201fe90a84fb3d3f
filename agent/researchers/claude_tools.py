"""The tools that a Claude model is offered, as the Messages API describes them; `claude_draft.py` carries them out."""

from anthropic.types import ToolUnionParam

from results.notes import KINDS, MAX_NOTE

TOOLS: tuple[ToolUnionParam, ...] = (
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    {
        "name": "query_history",
        "description": (
            "Runs one read-only SELECT (DuckDB) over all experiments of the farm and returns a table. Start with the "
            "view history (branch, number, title, hypothesis, decision, val_bpb, effect, helps, sigma, reason, id): "
            "val_bpb is the raw score, effect and helps are the estimate by which ideas are kept; "
            "there are also leaderboard, near_misses, changes (experiment_id, name, old, new), experiments (with diff), "
            "runs (with log_tail) and foreign_results (what other systems tried, if a person imported any). "
            "Scores compare only within one platform and score_fingerprint."
        ),
        "input_schema": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
    },
    {
        "name": "read_log",
        "description": "Returns the end of the log of an experiment's last run: its loss by step, or how it crashed.",
        "input_schema": {
            "type": "object",
            "properties": {"id": {"type": "string", "description": "An experiment's id, or a run's."}},
            "required": ["id"],
        },
    },
    {
        "name": "search_docs",
        "description": (
            "Returns the signature and docstring of a function or class that train.py may use: of torch.nn, "
            "torch.nn.functional, torch.optim, and of research (its kernels and session). By its name, or by what it does."
        ),
        "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
    {
        "name": "note",
        "description": (
            "Notes a lesson (what experiments have taught beyond one of them) or a lead (what somebody should try) for all "
            f"loops, in at most {MAX_NOTE} characters. Only the latest notes are shown, so write few and replace old ones."
        ),
        "input_schema": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": list(KINDS)},
                "text": {"type": "string"},
                "replaces": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "Numbers of notes that are wrong or done, or that this one includes.",
                },
            },
            "required": ["kind", "text"],
        },
    },
    {
        "name": "submit",
        "description": "Submits the edited train.py as your idea. Call it once, when the edit is complete.",
        "input_schema": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "One short line that says what changes."},
                "hypothesis": {"type": "string", "description": "Why it should lower val_bpb, in a few sentences."},
                "parents": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Experiments that this builds on or combines: their numbers on this branch, or their ids.",
                },
            },
            "required": ["title", "hypothesis"],
        },
    },
)
