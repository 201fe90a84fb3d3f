from typing import Any

import pytest

from cluster.proxies import LOOPBACK, reach_directly


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("known", [{}, {"no_proxy": "a.example, localhost"}, {"NO_PROXY": "a.example"}])
def test_this_machine_is_reached_without_a_proxy(proxy: str, known: dict[str, str]) -> None:
    """Whichever of both spellings a library reads; what the user has excepted stays so."""
    environment = {proxy: "http://proxy:3128", **known}
    reach_directly(*LOOPBACK, environment=environment)
    for name in ("no_proxy", "NO_PROXY"):
        hosts = environment[name].split(",")
        assert set(LOOPBACK) <= set(hosts) and len(set(hosts)) == len(hosts)
        assert ("a.example" in hosts) == bool(known)


@pytest.mark.parametrize("environment", [{}, {"http_proxy": ""}, {"http_proxy": "http://p", "no_proxy": "*", "NO_PROXY": "*"}])
def test_an_environment_that_needs_nothing_stays_as_it_is(environment: dict[str, Any]) -> None:
    before = dict(environment)
    reach_directly(*LOOPBACK, environment=environment)
    assert environment == before
