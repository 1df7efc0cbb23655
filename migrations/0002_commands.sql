-- The offset from which on `tidegate verify` looks for missing records. At first it is the offset at which the pipeline began.
-- If records are skipped later, it moves past them. If the position is set back, it may move back too. NULL if the row was
-- inserted before this column existed, or by an older version of Tidegate.
ALTER TABLE tidegate.ledger ADD COLUMN first_offset bigint;

-- How many times `tidegate dead-letters replay` has failed to write the record, and the time of the last failure.
ALTER TABLE tidegate.dead_letter ADD COLUMN replays integer NOT NULL DEFAULT 0;
ALTER TABLE tidegate.dead_letter ADD COLUMN replayed_at timestamptz;
