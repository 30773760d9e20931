"""What keeps the promises of `server.ports`: clock, keys, TUF metadata, the recomputing process."""
