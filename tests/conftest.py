"""Fixtures for every test: servers that are started once a session, where a test asks for them."""

pytest_plugins = ["tests.servers.ledgers", "tests.servers.seaweedfs"]
