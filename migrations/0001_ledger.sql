-- The registrations: one row per pipeline, and one per replay. If a pipeline starts with another cluster, group or table than
-- its row has, it stops, and the error names the difference.
CREATE TABLE tidegate.pipeline (
    name          text PRIMARY KEY,
    cluster_id    text        NOT NULL,
    group_id      text        NOT NULL,
    target        text        NOT NULL,
    -- The oid of the target table; 0 if the records name their tables. A table that was dropped and recreated has another oid.
    -- It lacks the rows that the ledger counts as written.
    target_oid    bigint      NOT NULL,
    -- A JSON object: for each topic, the number of partitions that have had a ledger row. Partitions are numbered from 0. If a
    -- partition below this number has no ledger row, its row was lost.
    topics        jsonb       NOT NULL DEFAULT '{}',
    version       text        NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
);

-- The ledger: one row per pipeline, topic and partition. This table alone decides how far a partition is written. The position
-- of a partition, `next_offset`, is the offset of the first record that is not written yet. The transaction that writes the
-- records' rows also advances the position, so both are committed or neither is.
--
-- The primary key ends with `next_offset`, so each advance gives the row a new key. The reason is old row versions: while a
-- transaction keeps a snapshot open, Postgres keeps all of them, which may be thousands per row. If all versions had the same
-- key, each advance would read all of them twice: to find the row, and to check that the new index entry is unique. With
-- `next_offset` in the key, an advance finds the row by its exact position, and no existing entry equals the new one. So an
-- advance costs the same, however many old versions there are.
-- A statement that doesn't know the position reads the index backwards (ORDER BY next_offset DESC LIMIT 1). It finds the
-- live row first, because old versions normally have lower positions.
-- The key alone allows several rows per partition. The triggers below prevent that.
CREATE TABLE tidegate.ledger (
    pipeline       text        NOT NULL REFERENCES tidegate.pipeline ON DELETE CASCADE,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    -- The id of the current claim. A claim makes a consumer the owner of the partition, and sets a new random id. A write
    -- advances the row only if it names the current id, so an earlier owner cannot advance it. NULL before the first claim.
    claim_id       uuid,
    -- The number of the current claim: usually its time in Unix milliseconds, and always higher than the previous number. If the
    -- number is lower than that of a claim that a daemon knows, an older state of the database was restored.
    epoch          bigint      NOT NULL DEFAULT 0,
    owner          text,
    -- The offset, timestamp (Unix milliseconds) and digest of the last committed record. After a claim, Kafka's record at this
    -- offset is compared with them. A difference means that the log is another one: for example, the topic was recreated.
    last_offset    bigint,
    last_timestamp bigint,
    last_digest    bigint,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, topic, partition, next_offset)
) WITH (
    -- An INSERT leaves 60 % of each page free. An advance changes the key, so it is never a HOT update. But if the page
    -- has free space, the new version stays on the same page, and the next access to the page prunes the old version. If the
    -- page were full, each new version would go to another page, and nothing would prune the old one before vacuum.
    fillfactor = 40,
    -- Autovacuum is triggered by a fixed number of dead rows, because the table has few live rows, and a share of them means
    -- little. Under load, autovacuum therefore runs each time that the launcher checks the database (autovacuum_naptime).
    -- Its cost limit is ten times the default, because it must keep up with thousands of advances per second. It still has a
    -- cost limit: while a snapshot is open for hours, it scans gigabytes of row versions that it cannot remove.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 2,
    autovacuum_vacuum_cost_limit = 2000,
    -- Vacuum doesn't return empty pages at the end of the file to the operating system. The table would need them again at
    -- once, and truncating the file takes an ACCESS EXCLUSIVE lock, which blocks all other users of the table.
    vacuum_truncate = false,
    -- Autovacuum runs ANALYZE only once per ten million changes: no statement of Tidegate depends on this table's statistics.
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000000
);

-- Makes sure that each partition has only one row. An INSERT of a second row inserts nothing, like ON CONFLICT DO NOTHING. An
-- UPDATE that would give a partition a second row fails.
-- Sessions that add rows for the same pipeline wait for each other: the function first locks the pipeline's row, and then looks
-- for an existing ledger row. It must see the rows that were committed while it waited for the lock. Only under READ COMMITTED
-- does each statement see them, so the function refuses the other isolation levels.
-- With `enable_seqscan = off`, a plan that is cached while the table is small doesn't scan the whole table when it has grown.
CREATE FUNCTION tidegate.one_row_per_partition() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rows are added to tidegate.ledger under READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM FROM tidegate.pipeline WHERE name = NEW.pipeline FOR NO KEY UPDATE;
    IF TG_OP = 'INSERT' THEN
        -- Read the index backwards: if the partition has a row, its old versions normally have lower positions.
        PERFORM FROM tidegate.ledger
        WHERE pipeline = NEW.pipeline AND topic = NEW.topic AND partition = NEW.partition
        ORDER BY next_offset DESC LIMIT 1;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    ELSIF (SELECT count(*) FROM tidegate.ledger
            WHERE pipeline = NEW.pipeline AND topic = NEW.topic AND partition = NEW.partition) > 1 THEN
        RAISE EXCEPTION 'tidegate.ledger already has a row for pipeline %, topic %, partition %',
            NEW.pipeline, NEW.topic, NEW.partition USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_row_per_partition BEFORE INSERT ON tidegate.ledger
    FOR EACH ROW EXECUTE FUNCTION tidegate.one_row_per_partition();
-- This trigger is AFTER UPDATE. If the table had any BEFORE UPDATE trigger, each UPDATE would first lock each of its rows
-- separately, even if it sets none of the trigger's columns. So each advance would cost more.
CREATE TRIGGER one_row_per_partition_on_rename AFTER UPDATE OF pipeline, topic, partition ON tidegate.ledger
    FOR EACH ROW EXECUTE FUNCTION tidegate.one_row_per_partition();

-- Advances the ledger rows of a write. The elements at the same index of the arrays describe one advance. It happens only if
-- the row has this claim and is at this `from_offset`. Returns the indexes of the advances that happened, counted from 1.
-- Locks the rows in the order of topic and partition, like every other writer, so that writers don't deadlock.
--
-- The function first finds each row by its full key, and then updates the rows by their physical locations (ctid). If another
-- transaction has locked a row, the UPDATE waits until the lock is released. READ COMMITTED then checks the condition again, on
-- the row's newest version: the claim and the position must still match. If a ctid meanwhile belongs to another row, that
-- row doesn't match, because no two rows have the same claim id.
--
-- This is a function because a function can have settings of its own. They make sure that a plan that is cached while the table
-- is small doesn't scan the whole table when it has grown. For the same reason, the UPDATE compares `next_offset + 0`: no index
-- can serve this expression, so the plan has to use the ctid. The session as a whole can't have these settings, because the
-- triggers of the target tables run in the same session.
--
-- Never replace this function by another version, because older daemons may still call it. If a later version of Tidegate needs
-- a different function, it adds one with a new name.
CREATE FUNCTION tidegate.advance(
    of_pipeline text, topics text[], partitions integer[], claims uuid[], from_offsets bigint[], to_offsets bigint[],
    last_offsets bigint[], last_timestamps bigint[], last_digests bigint[]
) RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    places tid[] := ARRAY(
        SELECT (
            SELECT l.ctid FROM tidegate.ledger l
            WHERE l.pipeline = of_pipeline AND l.topic = s.topic AND l.partition = s.partition
                AND l.next_offset = s.from_offset
        )
        FROM unnest(topics, partitions, from_offsets) WITH ORDINALITY AS s (topic, partition, from_offset, n)
        ORDER BY s.n
    );
    moved bigint[];
BEGIN
    WITH moves AS (
        UPDATE tidegate.ledger l
        SET next_offset = s.to_offset, last_offset = s.last_offset, last_timestamp = s.last_timestamp,
            last_digest = s.last_digest, updated_at = now()
        FROM (
            SELECT * FROM unnest(
                places, topics, partitions, claims, from_offsets, to_offsets, last_offsets, last_timestamps, last_digests
            ) WITH ORDINALITY AS s (
                place, topic, partition, claim_id, from_offset, to_offset, last_offset, last_timestamp, last_digest, n
            )
            ORDER BY s.topic, s.partition, s.n
        ) s
        WHERE l.ctid = s.place AND l.claim_id = s.claim_id AND l.next_offset + 0 = s.from_offset
        RETURNING s.n
    )
    SELECT array_agg(n) INTO moved FROM moves;
    RETURN coalesce(moved, '{}');
END $$;

-- The dead letters: records that could not be written as rows. Key, value and headers are stored byte for byte.
CREATE TABLE tidegate.dead_letter (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline       text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    record_offset  bigint      NOT NULL,
    -- Kafka's timestamp of the record, in Unix milliseconds. It can be any 64-bit number, and timestamptz can't store all of
    -- them.
    timestamp_ms   bigint,
    key            bytea,
    value          bytea,
    header_names   bytea[]     NOT NULL DEFAULT '{}',
    header_values  bytea[]     NOT NULL DEFAULT '{}',
    reason         text        NOT NULL,
    sqlstate       text,
    column_name    text,
    detail         text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letter_place ON tidegate.dead_letter (pipeline, topic, partition, record_offset);
CREATE INDEX dead_letter_age ON tidegate.dead_letter (pipeline, created_at);

-- One row per daemon, for the status page and for commands. Idle consumers own no partitions, so the ledger doesn't show them.
-- Each daemon updates its row every few seconds. The free space that `fillfactor` leaves lets these updates be HOT.
CREATE TABLE tidegate.instance (
    id        text PRIMARY KEY,
    host      text        NOT NULL,
    url       text,
    version   text        NOT NULL,
    consumers jsonb       NOT NULL DEFAULT '{}',
    seen_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
