//! More environments in which `check` and `run` must agree (see `agreement.rs`): limits, settings
//! of a role, tables that refuse rows, and topics.

use crate::agreement_cases::{Case, UPSERT, faulty, ready, with};

pub(crate) const MORE_CASES: &[Case] = &[
    // Limits on connections.
    faulty("one connection for the role", "ALTER ROLE {role} CONNECTION LIMIT 1", "CONNECTION LIMIT 5"),
    faulty("two connections for the role", "ALTER ROLE {role} CONNECTION LIMIT 2", "allows at most 2 connections"),
    ready("three connections for the role", "ALTER ROLE {role} CONNECTION LIMIT 3"),
    ready("four connections for the role", "ALTER ROLE {role} CONNECTION LIMIT 4"),
    ready("ten connections for the role", "ALTER ROLE {role} CONNECTION LIMIT 10"),
    faulty(
        "one connection for the database",
        "ALTER DATABASE {db} CONNECTION LIMIT 1",
        "allows at most 1 connection, and",
    ),
    // Settings of a role or a database.
    ready("statement_timeout of 1 ms", "ALTER ROLE {role} SET statement_timeout = 1"),
    ready("plpgsql.variable_conflict", "ALTER ROLE {role} SET plpgsql.variable_conflict = use_column"),
    ready(
        "array_nulls and transform_null_equals",
        "ALTER ROLE {role} SET array_nulls = off; ALTER ROLE {role} SET transform_null_equals = on",
    ),
    ready(
        "dates of another style",
        "ALTER ROLE {role} SET datestyle = 'German, DMY'; ALTER ROLE {role} SET intervalstyle = 'sql_standard'; ALTER ROLE {role} SET timezone = 'Asia/Kathmandu'; ALTER ROLE {role} SET extra_float_digits = -15",
    ),
    ready(
        "no plan that is enabled",
        "ALTER ROLE {role} SET enable_indexscan = off; ALTER ROLE {role} SET enable_bitmapscan = off; ALTER ROLE {role} SET enable_indexonlyscan = off",
    ),
    ready("a tablespace that is missing", "ALTER ROLE {role} SET default_tablespace = 'nowhere'"),
    ready("a table access method that is missing", "ALTER ROLE {role} SET default_table_access_method = 'nowhere'"),
    ready(
        "a session that sets a role",
        "CREATE ROLE {role}_group; GRANT {role}_group TO {role}; GRANT ALL ON SCHEMA tidegate TO {role}_group; GRANT INSERT ON rides TO {role}_group; ALTER ROLE {role} SET role = {role}_group",
    ),
    faulty(
        "a session that sets a role without rights",
        "CREATE ROLE {role}_group; GRANT {role}_group TO {role}; ALTER ROLE {role} SET role = {role}_group",
        "GRANT",
    ),
    // More tables.
    faulty(
        "a table that only the search_path names",
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {role}; ALTER TABLE rides SET SCHEMA app; ALTER ROLE {role} SET search_path = app",
        "`public.rides` does not exist",
    ),
    faulty(
        "a domain whose check no row passes",
        "CREATE DOMAIN high AS float8 CHECK (VALUE > 90); ALTER TABLE rides ALTER COLUMN lat TYPE high",
        "would be dead letters",
    ),
    ready(
        "a domain whose check each row passes",
        "CREATE DOMAIN low AS float8 CHECK (VALUE < 90); ALTER TABLE rides ALTER COLUMN lat TYPE low",
    ),
    faulty(
        "a domain whose check fails to run",
        "CREATE FUNCTION broken(float8) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT true FROM nowhere); END$$; CREATE DOMAIN odd AS float8 CHECK (broken(VALUE)); ALTER TABLE rides ALTER COLUMN lat TYPE odd",
        "nowhere",
    ),
    faulty(
        "partitions for half of the rows",
        "DROP TABLE rides; CREATE TABLE rides (id bigint, name text, lat float8) PARTITION BY RANGE (id); CREATE TABLE rides_0 PARTITION OF rides FOR VALUES FROM (0) TO (150); GRANT INSERT ON rides TO {role}",
        "would be dead letters",
    ),
    faulty("a unique index that all rows violate", "CREATE UNIQUE INDEX ON rides (name)", "would be dead letters"),
    faulty(
        "a deferred unique constraint that all rows violate",
        "ALTER TABLE rides ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED",
        "would be dead letters",
    ),
    faulty(
        "an index whose function fails to run",
        "CREATE FUNCTION broken(float8) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT true FROM nowhere); END$$; CREATE INDEX ON rides (broken(lat))",
        "nowhere",
    ),
    ready(
        "a typed table",
        "DROP TABLE rides; CREATE TYPE ride AS (id bigint, name text, lat float8); CREATE TABLE rides OF ride; GRANT INSERT ON rides TO {role}",
    ),
    with(
        UPSERT,
        faulty(
            "upsert of a published table without a replica identity",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT, UPDATE ON rides TO {role}; INSERT INTO rides SELECT generate_series(0, 400); CREATE PUBLICATION p FOR TABLE rides",
            "replica identity",
        ),
    ),
    with(
        UPSERT,
        ready(
            "upsert of a published table with a replica identity",
            "ALTER TABLE rides ADD PRIMARY KEY (id); GRANT SELECT, UPDATE ON rides TO {role}; INSERT INTO rides SELECT generate_series(0, 400); CREATE PUBLICATION p FOR TABLE rides",
        ),
    ),
    // More topics.
    with("topics = [\"{topic}_empty\"]\ntable.name = \"rides\"", ready("an empty topic", "")),
    with("topics = [\"{topic}_deleted\"]\ntable.name = \"rides\"", ready("a topic whose records are all deleted", "")),
    with("topics = [\"{topic}_compacted\"]\ntable.name = \"rides\"", ready("a compacted topic", "")),
    with(
        "topics = [\"{topic}_tombstones\"]\ntable.name = \"rides\"",
        faulty("a topic of tombstones, which append can't take", "", "would be dead letters"),
    ),
    with("topics = [\"{topic}_transactions\"]\ntable.name = \"rides\"", ready("a topic of aborted transactions", "")),
    with(
        "topics = [\"{topic}\", \"{topic}_empty\"]\ntable.name = \"rides\"",
        ready("two topics, one of them empty", ""),
    ),
];
