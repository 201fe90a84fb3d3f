"""The error for mistakes that a user can fix. Every other exception is a bug, and ends in a traceback."""


class UserError(Exception):
    """A mistake that the user can fix. The text is one line that says what to do; commands print it without a traceback."""


class FarmEnded(UserError):
    """The farm that was asked ended before it could answer."""

    def __init__(self) -> None:
        super().__init__("The farm ended before it answered: ask again.")
