"""Messages as bytes: structs, strict codec, limits. Decides nothing about trust."""
