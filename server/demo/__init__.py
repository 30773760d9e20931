"""What `make demo` runs: the main job on real data, with real processes, in under a minute.

Stands beside the command line; nothing imports it. The cars are scripted, one drives away in the
middle of a unit, and one owner runs a liar.
"""
