"""Open-loop load: requests go out when the plan says so, whatever the server does, and each is accounted for.

`mesh bench replay` makes its plan of a recorded trace, `mesh demo` of a seeded generator. The pure parts (plan,
prompts, answer, ledger, report) know nothing of sockets; `client` and `driver` wait.
"""
