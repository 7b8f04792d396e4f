"""The paper's figures and tables, and what its reviewers asked for: what to run for each, and how to draw it."""
