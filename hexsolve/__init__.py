"""hexsolve: solver-based placement engine for agentic LLM workflows. Public names are re-exported here."""
