"""The vocabulary of the mesh: frozen values that every plane shares. No behaviour beyond their own shape.

Values that cross the request path are `msgspec.Struct(frozen=True)`: equal by value like a frozen dataclass
and about ten times cheaper to make (docs/decisions/0001).
"""
