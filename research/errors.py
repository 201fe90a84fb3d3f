"""The error that a user can mend. Every other exception is a bug, and ends in a traceback."""


class UserError(Exception):
    """A mistake that the user can mend. The text is one line that says what to do; commands print it without a traceback."""
