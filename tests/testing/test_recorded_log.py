from __future__ import annotations

from infermesh.planes.signal.event_log import EventLog
from infermesh.testing.recorded_log import RecordedLog


def test_it_keeps_events_of_every_level_in_order() -> None:
    recorded = RecordedLog()
    log: EventLog = recorded
    log.info("one", peer="a")
    log.warning("two")
    log.info("one", peer="b")
    assert recorded.names() == ["one", "two", "one"]
    assert recorded.fields_of("one") == [{"peer": "a"}, {"peer": "b"}]
