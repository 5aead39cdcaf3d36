"""What can be wrong with a cluster's surroundings, as errors that name the fix."""

from __future__ import annotations

from ...runtime.errors import FoliotError, UnavailableError, UsageError


class ClockSkewError(FoliotError):
    """The node's clock is too far from the database's or its peers' to decide when a task is due."""

    code = "clock_skew"

    def __init__(self, node: str, skew_ms: int, limit_ms: int, against: str) -> None:
        super().__init__(
            f"the clock of node {node!r} is {abs(skew_ms)} ms {'ahead of' if skew_ms > 0 else 'behind'} {against},"
            f" expected at most {limit_ms} ms; set the clock (NTP) and start the node again"
        )
        self.node = node
        self.skew_ms = skew_ms
        self.limit_ms = limit_ms
        self.against = against


class NoNodesError(UnavailableError):
    """The NATS server is there, and no node of the cluster."""

    code = "no_nodes"

    def __init__(self, server: str, waited_ms: int) -> None:
        super().__init__(
            f"no foliot node answers over the NATS server at {server} within {waited_ms} ms; start one with `foliot node`"
        )
        self.server = server
        self.waited_ms = waited_ms


class ProductError(UsageError):
    """A worker meets nodes that speak another version of the actors' protocol."""

    code = "version"

    def __init__(self, theirs: int, own: int) -> None:
        super().__init__(f"the cluster speaks version {theirs} of its protocol, this process {own}; use the same foliot")
        self.theirs = theirs
