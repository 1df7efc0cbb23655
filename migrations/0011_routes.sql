-- The tables of pipelines whose records name them: a name's first record notes the table here.
CREATE TABLE tidegate.route (
    pipeline    text        NOT NULL REFERENCES tidegate.pipeline ON DELETE CASCADE,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    table_oid   bigint      NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, schema_name, table_name)
);
CREATE INDEX route_table ON tidegate.route (table_oid);
