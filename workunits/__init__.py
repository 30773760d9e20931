"""The contract: what a unit is, how it is written, signed, executed and compared.

Knows neither side. Start at README.md (what may live here) and PROTOCOL.md (every message, limit
and rule, in the numbered clauses that comments cite).
"""
