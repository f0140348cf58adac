"""Attempts to reach the network, made visible."""

import sys

import pytest


@pytest.fixture(scope="session")
def connections():
    """Attempts to reach the network, as Python reports them: also those whose failure is swallowed."""
    events = []
    watched = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
    sys.addaudithook(lambda event, args: events.append((event, args)) if event in watched else None)
    return events
