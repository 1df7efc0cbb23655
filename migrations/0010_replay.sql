-- Where `tidegate replay` ends. NULL for pipelines, which don't end.
ALTER TABLE tidegate.ledger ADD COLUMN end_offset bigint;
