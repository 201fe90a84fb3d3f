"""`farm dashboard`: pages over one home, on loopback. It reads the journal and the running farm, and owns neither."""
