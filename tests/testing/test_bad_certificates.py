from __future__ import annotations

from infermesh.testing.bad_certificates import GOOD, REASONS, SHAPES, BadCertificate


def test_every_kind_has_one_row_and_differs_from_the_good_shape() -> None:
    assert set(SHAPES) == set(REASONS) == set(BadCertificate)
    assert GOOD not in SHAPES.values()


def test_no_two_kinds_are_the_same_certificate() -> None:
    shapes = list(SHAPES.values())
    assert all(shapes.count(shape) == 1 for shape in shapes)
