"""The git repository of the branches. Knows commits, worktrees and bundles; nothing of researchers or the loop."""
