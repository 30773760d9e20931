"""The vehicle: what an owner installs. Start at README.md beside this file."""
