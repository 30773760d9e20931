"""The pure machine: events in, commands out, and the story of every unit."""
