"""What keeps the promises of `tesla_at_home.ports`: link, disk, keys, child process, sources."""
