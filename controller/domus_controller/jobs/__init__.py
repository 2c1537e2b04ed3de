"""Jobs: their queue, the service that runs their playbooks, verbs, cancelling and recovery."""
