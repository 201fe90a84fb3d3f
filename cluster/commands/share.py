"""`farm export`: the history for other programs."""

import argparse

from cluster.commands.read_home import read_history
from cluster.home import Home, find_home
from research.errors import UserError
from research.files import user_path
from research.formatting import counted


def export(options: argparse.Namespace) -> int:
    """Writes the history to a folder, pushes it, or sends it to trackers."""
    home = find_home(options.home)
    if options.folder is None and options.push is not None:
        raise UserError("--push uploads a folder: name one, such as farm export my-farm --push OWNER/NAME.")
    if options.folder is None and not options.track:
        raise UserError("Nothing to do: name a folder for the files, or a tracker with --track.")
    if options.push is not None:
        from cluster.hub_push import check_name

        check_name(options.push)
    for name in options.track or ():
        from cluster.trackers.clients import check_installed

        check_installed(name)
    histories = read_history(home)
    if options.folder is not None:
        from cluster.export_folder import write_folder

        folder = user_path(options.folder, instead="another path").resolve()
        for line in write_folder(folder, home, histories):
            print(line, flush=True)
        if options.push is not None:
            from cluster.hub_push import push

            print(f"pushed to {push(folder, options.push)} (a new dataset is private until you change that there)")
    for name in dict.fromkeys(options.track or ()):
        print(track(home, name), flush=True)
    return 0


def track(home: Home, name: str) -> str:
    """Sends all runs that have ended to a tracker, and says how many. Raises UserError if the tracker fails."""
    from cluster.trackers.clients import error_in_words, open_tracker
    from cluster.trackers.feed import TrackerFeed, sending, state_file

    with sending(home, name):
        tracker = open_tracker(name, home.folder)
        feed = TrackerFeed(home, name, tracker)
        try:
            feed.send_on()
            tracker.close()
        except Exception as error:
            raise UserError(
                f"{name} took {counted(feed.sent, 'run')}, then failed ({error_in_words(error)}): "
                "the same command sends the rest."
            ) from error
    known = f"; {feed.sent_before:,} were sent before (without {state_file(home, name)} they are sent again)"
    return f"{name}: {counted(feed.sent, 'run')} sent{known if feed.sent_before else ''}"
