"""One module per untrusted decoder. The first line of each is its invariant; `TARGET` is what the engines run."""
