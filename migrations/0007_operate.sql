-- The time at which records of the partition were last committed before the current claim. `updated_at` is the time of the last
-- commit or of the last claim, whichever is later.
ALTER TABLE tidegate.ledger ADD COLUMN committed_at timestamptz;

-- The pipelines that have stopped on this instance and wait for `tidegate pipelines resume`: a JSON object from name to reason.
ALTER TABLE tidegate.instance ADD COLUMN stopped jsonb NOT NULL DEFAULT '{}';
