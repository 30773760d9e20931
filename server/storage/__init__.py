"""The database and the blobs behind the services' ports. Decides nothing: it keeps, guards and finds."""
