"""What branches are called where nobody says."""

from datetime import date


def todays_tag() -> str:
    """Month and day, as `mar08`."""
    return date.today().strftime("%b%d").lower()
