from wire.errors import LocalProtocolError, ProtocolError, RemoteProtocolError


def test_a_remote_fault_carries_the_status_that_says_it_best() -> None:
    error = RemoteProtocolError("head of 70000 bytes is over the limit of 65536", 431)
    assert str(error) == "head of 70000 bytes is over the limit of 65536"
    assert error.status_hint == 431
    assert RemoteProtocolError("bad chunk size").status_hint == 400


def test_a_fault_of_ours_is_never_taken_for_a_fault_of_the_peer() -> None:
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
