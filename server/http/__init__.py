"""The HTTP side: API, pages, uploads, and the gathering that puts requests into transactions."""
