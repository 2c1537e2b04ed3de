"""The manager's way to the agents: calls, take-over, and what they report."""
