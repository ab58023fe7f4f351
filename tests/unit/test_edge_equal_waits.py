"""Waits of one length under one timer."""

from __future__ import annotations

import asyncio

from bursar_edge.equal_waits import EqualWaits


class Loop:
    """An event loop's clock and timers, moved by hand."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        self.timers = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def time(self):
        return self.now_s

    def call_later(self, delay_s, callback):
        self.timers.append((self.now_s + delay_s, callback))
        return self.timers[-1]

    def go_to(self, now_s):
        while self.timers and min(due for due, _ in self.timers) <= now_s:
            due, callback = timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now_s = due
            callback()
        self.now_s = now_s


def test_each_is_over_at_its_own_time_and_one_timer_runs(monkeypatch):
    loop, over = Loop(monkeypatch), []
    waits = EqualWaits(10.0, lambda what: over.append((what, loop.now_s)))
    for what in ("a", "b", "c"):
        waits.begin(what)
        loop.go_to(loop.now_s + 1)
        assert len(loop.timers) == 1
    waits.end("b")
    waits.end("never began")
    loop.go_to(200.0)
    assert over == [("a", 110.0), ("c", 112.0)]
    assert not loop.timers


def test_what_is_over_may_wait_again(monkeypatch):
    loop, over = Loop(monkeypatch), []

    def again(what):
        over.append(loop.now_s)
        waits.begin(what)

    waits = EqualWaits(10.0, again)
    waits.begin("a")
    loop.go_to(131.0)
    assert over == [110.0, 120.0, 130.0]
    assert len(loop.timers) == 1
    waits.end("a")
    loop.go_to(500.0)
    assert len(over) == 3
    assert not loop.timers
