"""Where vehicle state comes from: one module per kind of source, each posting what it hears."""
