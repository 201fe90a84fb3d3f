"""The tools that a Claude model is offered, as the Messages API describes them; `claude_draft.py` carries them out."""

from anthropic.types import ToolUnionParam

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
