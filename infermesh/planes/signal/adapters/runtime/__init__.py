"""Adapters of inference runtimes. `port` is what each offers; the rest of a file name says whose it is."""
