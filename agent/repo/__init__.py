"""The git repository that holds the branches: names, commits, worktrees and bundles. Knows no researchers and no loop."""
