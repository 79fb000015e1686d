from __future__ import annotations

import math

from wire.http2.alarms import Alarm, Alarms


def test_the_next_alarm_is_when_to_wake() -> None:
    alarms = Alarms()
    assert alarms.wake_at == math.inf
    alarms.set(Alarm.SETTINGS_ACK, 10.0)
    alarms.set(Alarm.PREFACE, 3.0)
    assert alarms.wake_at == 3.0
    alarms.clear(Alarm.PREFACE)
    assert alarms.wake_at == 10.0
    alarms.set(Alarm.SETTINGS_ACK, 12.0)
    assert alarms.wake_at == 12.0


def test_what_is_due_is_told_once_and_in_order() -> None:
    alarms = Alarms()
    alarms.set(Alarm.STALL, 1.0)
    alarms.set(Alarm.PREFACE, 2.0)
    alarms.set(Alarm.DRAIN, 9.0)
    assert alarms.due(0.9) == []
    assert alarms.due(2.0) == [Alarm.PREFACE, Alarm.STALL]
    assert alarms.due(2.0) == []
    assert alarms.is_set(Alarm.DRAIN)
    alarms.clear_all()
    assert alarms.wake_at == math.inf
