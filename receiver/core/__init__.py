"""What the service knows and how it decides: pure values and functions, no I/O, no clock, no randomness."""
