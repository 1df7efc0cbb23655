-- When records of a partition were last committed before its current claim. `updated_at` is the time of the last commit or claim.
ALTER TABLE tidegate.ledger ADD COLUMN committed_at timestamptz;

-- The pipelines that have stopped on an instance and wait for `tidegate pipelines resume`: each name with the reason.
ALTER TABLE tidegate.instance ADD COLUMN stopped jsonb NOT NULL DEFAULT '{}';
