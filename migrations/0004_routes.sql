-- The tables of pipelines whose records name their tables. The first record that names a table adds a row, before anything is
-- written into the table. By these rows, a pipeline sees whether another one already writes the same topic into a table.
CREATE TABLE tidegate.route (
    pipeline    text        NOT NULL REFERENCES tidegate.pipeline ON DELETE CASCADE,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    table_oid   bigint      NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, schema_name, table_name)
);
CREATE INDEX route_table ON tidegate.route (table_oid);
