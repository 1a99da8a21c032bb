"""Pure rules: no clock, no I/O, no logging. State and ``now`` go in, decisions come out."""
