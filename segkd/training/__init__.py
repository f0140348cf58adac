"""Training from a config: schema, Lightning module, callbacks, run directory."""
