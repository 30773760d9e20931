"""Pure decisions: lifecycles, assignment, quorum, credit, cutting. Values in, decisions out."""
