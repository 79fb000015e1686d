"""The simulated world: fleets on virtual time that run the daemon's own cores, with seeds, faults and checks.

Pure: no clock, no files; randomness only from a seed. `fleet.simulate` is the entry for routing, `compare` for
policies side by side. A run whose accounts do not add up has no figures: `checks.ConservationError`.
"""
