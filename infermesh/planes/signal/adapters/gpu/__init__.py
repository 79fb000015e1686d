"""Adapters of GPU telemetry. `port` is what each offers."""
