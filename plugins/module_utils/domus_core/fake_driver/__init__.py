"""The driver's interface in memory, for tests and simulation."""
