"""Pure rules: signals, gate, temperature, budgets, back-off, deadlines."""
