"""The manager's database: the only place that knows SQL."""
