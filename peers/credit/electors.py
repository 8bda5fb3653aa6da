"""Who has a say after a block: electors, by their vested credit, but for those whose word counts no more."""

from __future__ import annotations

from peers.credit.accounts import Accounts
from peers.protocol.chance.say import Say, has_worked, weigh
from peers.protocol.counters import Counters
from peers.protocol.rules import Rules


def say_after(counters: Counters, accounts: Accounts, rules: Rules) -> Say:
    """Return the say after the block to which counters and accounts belong."""
    out = frozenset(peer for peer in counters.peers if accounts.is_out(peer))
    excluded = frozenset(peer for peer in counters.peers if accounts.is_excluded(peer))
    # If no elector is left, the others go on: a run does not end with those who broke its rules.
    electors = counters.electors(rules) - excluded or frozenset(counters.peers) - out
    vested = {peer: account.vested if (account := accounts.peers.get(peer)) else 0 for peer in electors}
    worked = frozenset(peer for peer, amount in vested.items() if has_worked(amount, accounts.mean_claim))
    return Say(weigh(vested, mean_claim=accounts.mean_claim), worked or electors, out)
