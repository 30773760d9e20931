"""Kinds of work: how a data set becomes rows, and outputs become an answer. Never in the vehicle."""
