"""A mesh of meshd processes on this machine: planned, configured, started, watched and stopped.

For `mesh demo` and for tests that need real processes with real mTLS. Not for running a mesh in earnest: that is
`meshd` under whatever starts services on a node.
"""
