-- What a pipeline's name means. Any difference at start is a named stop.
CREATE TABLE tidegate.pipeline (
    name          text PRIMARY KEY,
    cluster_id    text        NOT NULL,
    group_id      text        NOT NULL,
    target        text        NOT NULL,
    -- A table dropped and made again has another oid, and lacks what the ledger says is done.
    target_oid    bigint      NOT NULL,
    -- Topic to number of partitions that the ledger has had rows for: one below it without a row is a lost one.
    topics        jsonb       NOT NULL DEFAULT '{}',
    version       text        NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
);

-- The truth about progress: moved in the transaction that writes the rows. One row a partition.
-- The key ends with the position, so each version of a row has a key of its own. Who knows where a row stands finds it by one
-- version, and a move's new index entry has no equals among which to look for a duplicate: it costs the same when a snapshot that
-- is held open keeps thousands of versions of each row. Keyed by the partition alone every move would pass all of them, twice.
-- Who doesn't know it reads backwards from the highest position (ORDER BY next_offset DESC LIMIT 1): the versions that nobody
-- sees any more lie below.
-- That there is one row a partition the triggers below see to.
CREATE TABLE tidegate.ledger (
    pipeline       text        NOT NULL REFERENCES tidegate.pipeline ON DELETE CASCADE,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    -- The fence: only who knows it moves the row.
    claim_id       uuid,
    -- The claim's number, which only counts up: milliseconds of the clock when it was made, or one more than the last.
    epoch          bigint      NOT NULL DEFAULT 0,
    owner          text,
    -- The last committed record, by which the log is known again.
    last_offset    bigint,
    last_timestamp bigint,
    last_digest    bigint,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, topic, partition, next_offset)
) WITH (
    -- A move changes the key, so it is never HOT; but in a page that is half empty its new version stays beside the old one, and
    -- the next visit prunes that away. In a full one every version goes to another page, which nobody prunes before vacuum.
    fillfactor = 40,
    -- Vacuum comes by the count of dead rows, not by a share of so few, each time that the launcher looks; it may take ten times
    -- the usual share of the disk, since it must keep up with thousands of moves a second, but not all of it, since under a
    -- snapshot of hours it passes gigabytes that it can't remove.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 2,
    autovacuum_vacuum_cost_limit = 2000,
    -- Pages given back at the end would be asked for again at once; and taking them away locks everybody out.
    vacuum_truncate = false,
    -- Nothing of ours is planned by its statistics.
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000000
);

-- One row a partition: an INSERT of a second one inserts nothing, as ON CONFLICT DO NOTHING would; an UPDATE that makes a second
-- one fails. Who adds rows does so one after the other, behind the lock of the pipeline's row, and looks after it has the lock:
-- that sees what was committed meanwhile only where each statement sees it.
CREATE FUNCTION tidegate.one_row_a_partition() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rows are added to tidegate.ledger under READ COMMITTED only'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM FROM tidegate.pipeline WHERE name = NEW.pipeline FOR NO KEY UPDATE;
    IF TG_OP = 'INSERT' THEN
        -- Backwards: the row that is there, if one is, lies above its dead versions.
        PERFORM FROM tidegate.ledger
        WHERE pipeline = NEW.pipeline AND topic = NEW.topic AND partition = NEW.partition
        ORDER BY next_offset DESC LIMIT 1;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    ELSIF (SELECT count(*) FROM tidegate.ledger
            WHERE pipeline = NEW.pipeline AND topic = NEW.topic AND partition = NEW.partition) > 1 THEN
        RAISE EXCEPTION 'tidegate.ledger has a row of pipeline %, topic %, partition % already',
            NEW.pipeline, NEW.topic, NEW.partition USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_row_a_partition BEFORE INSERT ON tidegate.ledger
    FOR EACH ROW EXECUTE FUNCTION tidegate.one_row_a_partition();
-- AFTER: a BEFORE trigger, also one that isn't meant by the columns that a move sets, would lock each row once more.
CREATE TRIGGER one_row_a_partition_after_rename AFTER UPDATE OF pipeline, topic, partition ON tidegate.ledger
    FOR EACH ROW EXECUTE FUNCTION tidegate.one_row_a_partition();

-- Moves the rows that stand at (claim, from), in the order in which everybody locks them; which of the spans, counted from 1.
-- First each row is found by its whole key, then it is moved by its place. READ COMMITTED looks at a row again that another
-- transaction has locked, once it is free: claim and position must still fit. A claim's id is of one row alone, so a place that
-- has become another row's fits nothing.
-- A function for the sake of its settings: a plan that was made while the table was small must not read the whole of it once it
-- is large. For that too the position is compared as a sum, which no index knows.
-- A daemon of a later version that needs another one makes it beside this, which older daemons go on calling.
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

-- Records that did not become rows, byte for byte.
CREATE TABLE tidegate.dead_letter (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline       text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    record_offset  bigint      NOT NULL,
    -- Milliseconds since the epoch as Kafka has them: any 64-bit number, which timestamptz couldn't hold.
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

-- The daemons, for the page: idle consumers own no ledger row.
CREATE TABLE tidegate.instance (
    id        text PRIMARY KEY,
    host      text        NOT NULL,
    url       text,
    version   text        NOT NULL,
    consumers jsonb       NOT NULL DEFAULT '{}',
    seen_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
