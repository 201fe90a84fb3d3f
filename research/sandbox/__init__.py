"""The walls around a run, layer by layer. Knows processes and files; nothing of models, data or the judge."""
