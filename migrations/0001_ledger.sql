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

-- The truth about progress: moved in the transaction that writes the rows.
-- One small row a partition, updated several times a second: pages stay half empty so that updates stay on them (HOT), no
-- index but the key's, and vacuum comes by the count of dead rows, not by a share of so few.
CREATE TABLE tidegate.ledger (
    pipeline       text        NOT NULL REFERENCES tidegate.pipeline ON DELETE CASCADE,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    -- The fence: only who knows it moves the row.
    claim_id       uuid,
    epoch          bigint      NOT NULL DEFAULT 0,
    owner          text,
    -- The last committed record, by which the log is known again.
    last_offset    bigint,
    last_timestamp bigint,
    last_digest    bigint,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, topic, partition)
) WITH (
    fillfactor = 40,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);

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
