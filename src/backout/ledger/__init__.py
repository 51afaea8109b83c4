"""The ledger: what people said and what was run, append-only and hash-chained, with statements that they signed."""
