-- Where the pipeline began, so that `tidegate verify` knows from which offset on every record must be there. NULL where the row
-- was made by an older version, or before this one.
ALTER TABLE tidegate.ledger ADD COLUMN first_offset bigint;

-- How often `tidegate dead-letters replay` tried it again in vain, and when last.
ALTER TABLE tidegate.dead_letter ADD COLUMN replays integer NOT NULL DEFAULT 0;
ALTER TABLE tidegate.dead_letter ADD COLUMN replayed_at timestamptz;
