-- The offset before which a replay (`tidegate replay`) ends. NULL for pipelines, because they have no end.
ALTER TABLE tidegate.ledger ADD COLUMN end_offset bigint;
