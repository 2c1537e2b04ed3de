"""The `domus` command."""
