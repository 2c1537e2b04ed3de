"""All of libvirt and its XML, one file a kind."""
