"""The project: issue, collect, validate, credit, publish. Start at README.md beside this file."""
