"""Signals for orders, from other threads than theirs."""

from __future__ import annotations

import math

from trainer.orders import MOST_REMEMBERED, Orders, Signals


def test_an_order_has_the_signals_from_before_it_began_and_from_while_it_runs() -> None:
    orders = Orders()
    orders.end_by(1, 5.0)
    with orders.running(1) as signals:
        assert signals == Signals(stopped=False, until=5.0)
        orders.end_by(1, 4.0)
        orders.stop(1)
        orders.stop(2)
        assert signals == Signals(stopped=True, until=4.0)


def test_an_order_that_is_over_leaves_nothing_behind() -> None:
    orders = Orders()
    orders.stop(1)
    with orders.running(1):
        orders.end_by(1, 5.0)
    with orders.running(1) as signals:
        assert signals == Signals(stopped=False, until=math.inf)


def test_of_orders_that_never_begin_only_the_newest_are_remembered() -> None:
    orders = Orders()
    for number in range(MOST_REMEMBERED + 1):
        orders.stop(number)
    with orders.running(0) as forgotten, orders.running(1) as remembered:
        assert (forgotten.stopped, remembered.stopped) == (False, True)
