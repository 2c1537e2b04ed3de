"""The manager: stores inventory and state, runs jobs, receives what the agents report."""
