"""The sandbox around a run, layer by layer. It knows processes and files, but nothing of models, data or the judge."""
