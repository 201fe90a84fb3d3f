"""`farm mcp`: the farm as the lab of an agent outside it."""

import argparse

from cluster.home import find_home


def mcp(options: argparse.Namespace) -> int:
    """Serves tools for an outside agent on standard input and output, or over HTTP, until the agent goes."""
    from cluster.mcp_server.lab import Lab
    from cluster.mcp_server.over_http import serve
    from cluster.mcp_server.server import make_server

    home = find_home(options.home)
    server = make_server(Lab(home=home, name=options.branch))
    if options.http is None:
        server.run("stdio")
    else:
        serve(server, home, options.http)
    return 0
