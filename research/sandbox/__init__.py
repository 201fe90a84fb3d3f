"""The sandbox around a run, layer by layer. It deals with processes and files, not with models, data or the judge."""
