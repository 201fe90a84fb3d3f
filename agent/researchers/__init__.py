"""Who proposes: Claude, an external command, a script. A researcher sees text and history; it never touches git."""
