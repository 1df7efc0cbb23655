-- These triggers make sure that each partition has only one ledger row. ENABLE ALWAYS lets them fire in all sessions: ordinary
-- triggers don't fire in sessions with `session_replication_role = replica`.
ALTER TABLE tidegate.ledger ENABLE ALWAYS TRIGGER one_row_per_partition;
ALTER TABLE tidegate.ledger ENABLE ALWAYS TRIGGER one_row_per_partition_on_rename;
