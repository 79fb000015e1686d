"""Adapters: one per thing that can be asked. Each speaks that thing's own API and maps its own names."""
