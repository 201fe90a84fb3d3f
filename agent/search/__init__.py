"""The researcher that needs no key: a search over constants and ablations. It sees text and the history, never git."""
