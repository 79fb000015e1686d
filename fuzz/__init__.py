"""Fuzzing of every decoder that reads what a peer sent: one target per decoder, two engines, kept corpora.

`target` says what a target is and how one input is judged; `targets` holds them, one file each, its invariant in
its first line. `guided` runs atheris (coverage from libFuzzer), `plain` runs anywhere; `corpus` keeps the few
inputs that reach everything reached so far. `scripts/fuzz` is the command, docs/fuzzing.md the page.

Not shipped, and nothing here reads a network or a clock for its verdicts: an input that fails once fails always.
"""
