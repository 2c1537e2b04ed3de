"""The agent: a daemon on every server that does the manager's work there and reports what happens."""
