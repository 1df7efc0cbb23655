-- The ledger has one row per partition also in sessions with session_replication_role = replica, where ordinary triggers don't fire.
ALTER TABLE tidegate.ledger ENABLE ALWAYS TRIGGER one_row_a_partition;
ALTER TABLE tidegate.ledger ENABLE ALWAYS TRIGGER one_row_a_partition_after_rename;
