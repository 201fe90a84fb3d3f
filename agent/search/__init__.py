"""The researcher that needs no key: it searches over constants and ablations. Knows text and history, not git."""
