"""Server pools: what Corosync and Pacemaker are told, as pure functions; and the agent through which Pacemaker runs VMs."""
