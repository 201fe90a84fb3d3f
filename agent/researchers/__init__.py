"""The researchers: Claude, an external command, a script. A researcher sees text and the history, never git."""
