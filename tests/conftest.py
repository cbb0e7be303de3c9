"""Fixtures for every test: servers that are started once a session, where a test asks for them."""

import pytest

pytest_plugins = ["tests.servers.ledgers", "tests.servers.seaweedfs"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with those that may take longest: one of them at the end would leave one of two processes idle."""
    usual_s = float(config.getini("timeout"))

    def patience_s(item: pytest.Item) -> float:
        own = item.get_closest_marker("timeout")
        return float(own.args[0]) if own else usual_s

    items.sort(key=patience_s, reverse=True)
