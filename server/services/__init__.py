"""What the project does, as lists in and one transaction each; reaches the world through ports."""
