"""How the storage of repositories comes to a server: one small plug-in for each kind of storage."""
