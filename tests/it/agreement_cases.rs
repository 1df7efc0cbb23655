//! The environments of `agreement.rs`. `{role}`, `{db}`, `{name}` and `{topic}` are placeholders. The first three differ in each
//! environment.

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) database: &'static str,
    /// If set, the daemon drains a topic before `sql` runs: the role, the pipeline's name, and its configuration lines.
    pub(crate) before: Option<(&'static str, &'static str, &'static str)>,
    /// SQL that a superuser runs after [`BASE`].
    pub(crate) sql: &'static str,
    /// Lines under `[postgres]`.
    pub(crate) session: &'static str,
    /// Lines under `[pipelines.{name}]`.
    pub(crate) pipeline: &'static str,
    pub(crate) ready: bool,
    pub(crate) says: &'static str,
}

/// Creates a table and the schema of the ledger, and grants the role the rights that mode `append` needs.
pub(crate) const BASE: &str = "
CREATE TABLE rides (id bigint NOT NULL, name text, lat float8);
CREATE SCHEMA tidegate AUTHORIZATION {role};
GRANT INSERT ON rides TO {role};";

pub(crate) const APPEND: &str =
    "topics = [\"{topic}\"]\ntable.name = \"rides\"\ncolumns = { id = \"id\", name = \"name\", lat = \"lat\" }";
pub(crate) const SORTED: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", sort_by = [\"id\"] }\n\
                      columns = { id = \"id\", name = \"name\", lat = \"lat\" }";
pub(crate) const UPSERT: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", mode = \"upsert\", key = [\"id\"] }\n\
                      columns = { id = \"id\", name = \"name\", lat = \"lat\" }";
pub(crate) const INSERT_NEW: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", mode = \"insert_new\", key = [\"id\"] }\n\
                          columns = { id = \"id\", name = \"name\", lat = \"lat\" }";
pub(crate) const CREATE: &str = "topics = [\"{topic}\"]\ntable = { name = \"made\", create = true }\n\
                      columns = { id = { field = \"id\", type = \"int8\" }, name = { field = \"name\", type = \"text\" } }";

pub(crate) const EVOLVE: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", evolve = \"add\" }";
pub(crate) const BY_TIME: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", partition_by = { column = \"at\", interval = \"1 day\" } }\n\
                       columns = { id = \"id\", at = { meta = \"timestamp\" } }";
const ROUTED: &str = "topics = [\"{topic}\"]\ntable.name = \"rides_{NAME}\"\ncolumns = { id = \"id\", lat = \"lat\" }";
pub(crate) const ROUTED_CREATE: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides_{NAME}\", create = true }\n\
                             columns.id = { field = \"id\", type = \"int8\" }";
pub(crate) const ROUTED_UPSERT: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides_{NAME}\", mode = \"upsert\", key = [\"id\"] }\n\
                             columns = { id = \"id\", lat = \"lat\" }";

const DEFAULT: Case =
    Case { name: "", database: "", before: None, sql: "", session: "", pipeline: APPEND, ready: true, says: "ready" };

/// A value of `before`: a drain of the empty topic, which creates the ledger.
pub(crate) const LEDGER_MADE: Option<(&str, &str, &str)> =
    Some(("{role}", "other", "group = \"{name}-other\"\ntopics = [\"{topic}_empty\"]\ntable.name = \"rides\""));

pub(crate) const fn ready(name: &'static str, sql: &'static str) -> Case {
    Case { name, sql, ..DEFAULT }
}

pub(crate) const fn faulty(name: &'static str, sql: &'static str, says: &'static str) -> Case {
    Case { name, sql, ready: false, says, ..DEFAULT }
}

pub(crate) const fn with(pipeline: &'static str, case: Case) -> Case {
    Case { pipeline, ..case }
}

const KEY: &str = "CREATE UNIQUE INDEX ON rides (id);";
const KEY_AND_RIGHTS: &str = "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT, UPDATE, DELETE ON rides TO {role}";

pub(crate) const CASES: &[Case] = &[
    ready("the rights that docs/operate.md names", ""),
    // Rights on the table.
    faulty("no INSERT", "REVOKE INSERT ON rides FROM {role}", "GRANT INSERT ON \"public\".\"rides\" TO {role}"),
    ready("INSERT by column", "REVOKE INSERT ON rides FROM {role}; GRANT INSERT (id, name, lat) ON rides TO {role}"),
    faulty(
        "INSERT on some columns",
        "REVOKE INSERT ON rides FROM {role}; GRANT INSERT (id, name) ON rides TO {role}",
        "may not insert into",
    ),
    faulty(
        "no USAGE on the table's schema",
        "REVOKE USAGE ON SCHEMA public FROM public",
        "GRANT USAGE ON SCHEMA \"public\"",
    ),
    with(
        UPSERT,
        faulty(
            "upsert without UPDATE",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT ON rides TO {role}",
            "GRANT UPDATE ON",
        ),
    ),
    with(
        UPSERT,
        faulty(
            "upsert without SELECT",
            "CREATE UNIQUE INDEX ON rides (id); GRANT UPDATE ON rides TO {role}",
            "GRANT SELECT ON",
        ),
    ),
    with(
        UPSERT,
        ready(
            "upsert by rights on columns",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT (id, name, lat), UPDATE (name, lat) ON rides TO {role}",
        ),
    ),
    with(UPSERT, ready("upsert with its rights", KEY_AND_RIGHTS)),
    with(
        UPSERT,
        faulty(
            "upsert without TEMP",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT, UPDATE ON rides TO {role}; REVOKE TEMP ON DATABASE {db} FROM public",
            "GRANT TEMP ON DATABASE",
        ),
    ),
    with(INSERT_NEW, faulty("insert_new without SELECT", KEY, "GRANT SELECT ON")),
    with(
        INSERT_NEW,
        ready("insert_new with SELECT", "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT ON rides TO {role}"),
    ),
    faulty("serial without its sequence", "ALTER TABLE rides ADD COLUMN pk bigserial", "GRANT USAGE ON SEQUENCE"),
    ready(
        "serial with its sequence",
        "ALTER TABLE rides ADD COLUMN pk bigserial; GRANT USAGE ON SEQUENCE rides_pk_seq TO {role}",
    ),
    ready("identity", "ALTER TABLE rides ADD COLUMN pk bigint GENERATED ALWAYS AS IDENTITY"),
    // Rights on schema tidegate.
    faulty("no schema of ours", "DROP SCHEMA tidegate", "CREATE SCHEMA tidegate AUTHORIZATION"),
    ready("CREATE on the database", "DROP SCHEMA tidegate; GRANT CREATE ON DATABASE {db} TO {role}"),
    faulty("schema of another role", "ALTER SCHEMA tidegate OWNER TO postgres", "GRANT USAGE ON SCHEMA tidegate"),
    faulty(
        "schema without CREATE",
        "ALTER SCHEMA tidegate OWNER TO postgres; GRANT USAGE ON SCHEMA tidegate TO {role}",
        "GRANT CREATE ON SCHEMA tidegate",
    ),
    ready(
        "schema with USAGE and CREATE",
        "ALTER SCHEMA tidegate OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA tidegate TO {role}",
    ),
    Case {
        before: Some((
            "postgres",
            "other",
            "group = \"{name}-other\"\ntopics = [\"{topic}\"]\ntable = { name = \"elsewhere\", create = true }\ncolumns.id = { field = \"id\", type = \"int8\" }",
        )),
        ..faulty("ledger of another role", "ALTER SCHEMA tidegate OWNER TO postgres", "GRANT USAGE ON SCHEMA tidegate")
    },
    Case {
        before: Some((
            "postgres",
            "other",
            "group = \"{name}-other\"\ntopics = [\"{topic}\"]\ntable = { name = \"elsewhere\", create = true }\ncolumns.id = { field = \"id\", type = \"int8\" }",
        )),
        ..faulty(
            "ledger of another role, to be read only",
            "ALTER SCHEMA tidegate OWNER TO postgres; GRANT USAGE ON SCHEMA tidegate TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA tidegate TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate",
        )
    },
    Case {
        before: Some((
            "postgres",
            "other",
            "group = \"{name}-other\"\ntopics = [\"{topic}\"]\ntable = { name = \"elsewhere\", create = true }\ncolumns.id = { field = \"id\", type = \"int8\" }",
        )),
        ..ready(
            "ledger of another role, with rights",
            "ALTER SCHEMA tidegate OWNER TO postgres; GRANT USAGE ON SCHEMA tidegate TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO {role}",
        )
    },
    // Settings of the role and the database.
    ready("serializable role", "ALTER ROLE {role} SET default_transaction_isolation = 'serializable'"),
    ready("repeatable read database", "ALTER DATABASE {db} SET default_transaction_isolation = 'repeatable read'"),
    faulty(
        "read-only role",
        "ALTER ROLE {role} SET default_transaction_read_only = on",
        "RESET default_transaction_read_only",
    ),
    faulty("read-only database", "ALTER DATABASE {db} SET default_transaction_read_only = on", "ALTER DATABASE"),
    ready("empty search_path", "ALTER ROLE {role} SET search_path = ''"),
    ready("search_path that leads elsewhere", "ALTER ROLE {role} SET search_path = pg_temp, nowhere"),
    ready("session_replication_role", "ALTER ROLE {role} SET session_replication_role = replica"),
    ready("lock_timeout", "ALTER ROLE {role} SET lock_timeout = 1"),
    ready("statement_timeout", "ALTER ROLE {role} SET statement_timeout = 1000"),
    ready("idle_session_timeout", "ALTER ROLE {role} SET idle_session_timeout = 1000"),
    ready("transaction_timeout", "ALTER DATABASE {db} SET transaction_timeout = 1000"),
    ready("idle_in_transaction_session_timeout", "ALTER ROLE {role} SET idle_in_transaction_session_timeout = 1"),
    ready("exit_on_error", "ALTER ROLE {role} SET exit_on_error = on"),
    ready("quote_all_identifiers", "ALTER ROLE {role} SET quote_all_identifiers = on"),
    Case { session: "session.work_mem = \"lots\"", ..faulty("a bad setting", "", "work_mem") },
    faulty("a role that may not log in", "ALTER ROLE {role} NOLOGIN", "not permitted to log in"),
    faulty("a role without a connection", "ALTER ROLE {role} CONNECTION LIMIT 0", "53300"),
    faulty("no CONNECT", "REVOKE CONNECT ON DATABASE {db} FROM public", "CONNECT"),
    // Tables.
    faulty("no table", "DROP TABLE rides", "`public.rides` does not exist"),
    with(CREATE, faulty("create without CREATE on the schema", "", "GRANT USAGE, CREATE ON SCHEMA \"public\"")),
    with(CREATE, ready("create with CREATE on the schema", "GRANT CREATE ON SCHEMA public TO {role}")),
    with(
        "topics = [\"{topic}\"]\ntable = { name = \"app.made\", create = true }\ncolumns.id = { field = \"id\", type = \"int8\" }",
        faulty("create in a schema that is missing", "", "schema `app` does not exist"),
    ),
    faulty(
        "a view",
        "DROP TABLE rides; CREATE VIEW rides AS SELECT 1::int8 AS id, 'x'::text AS name, 1::float8 AS lat",
        "is a view",
    ),
    faulty(
        "partitioned without a partition",
        "DROP TABLE rides; CREATE TABLE rides (id bigint, name text, lat float8) PARTITION BY RANGE (id); GRANT INSERT ON rides TO {role}",
        "has no partition",
    ),
    ready(
        "partitioned",
        "DROP TABLE rides; CREATE TABLE rides (id bigint, name text, lat float8) PARTITION BY RANGE (id); CREATE TABLE rides_0 PARTITION OF rides DEFAULT; GRANT INSERT ON rides TO {role}",
    ),
    faulty(
        "partitioned with none that fits",
        "DROP TABLE rides; CREATE TABLE rides (id bigint, name text, lat float8) PARTITION BY RANGE (id); CREATE TABLE rides_0 PARTITION OF rides FOR VALUES FROM (10000) TO (20000); GRANT INSERT ON rides TO {role}",
        "would be dead letters",
    ),
    faulty(
        "a foreign key that no row fits",
        "CREATE TABLE trips (id bigint PRIMARY KEY); ALTER TABLE rides ADD FOREIGN KEY (id) REFERENCES trips",
        "would be dead letters",
    ),
    faulty(
        "a deferred foreign key that no row fits",
        "CREATE TABLE trips (id bigint PRIMARY KEY); ALTER TABLE rides ADD FOREIGN KEY (id) REFERENCES trips DEFERRABLE INITIALLY DEFERRED",
        "would be dead letters",
    ),
    ready(
        "a foreign key",
        "CREATE TABLE trips (id bigint PRIMARY KEY); INSERT INTO trips SELECT generate_series(0, 1000); ALTER TABLE rides ADD FOREIGN KEY (id) REFERENCES trips",
    ),
    faulty(
        "a trigger with an SQLSTATE of its own",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no' USING ERRCODE = 'TG001'; END$$; CREATE TRIGGER no BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION no()",
        "refused_by_postgres",
    ),
    faulty(
        "a trigger that raises",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$; CREATE TRIGGER no BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION no()",
        "would be dead letters",
    ),
    faulty("a check that no row passes", "ALTER TABLE rides ADD CHECK (lat > 90)", "would be dead letters"),
    faulty(
        "a mapped column that is generated",
        "ALTER TABLE rides DROP COLUMN lat, ADD COLUMN lat float8 GENERATED ALWAYS AS (1) STORED",
        "lat",
    ),
    ready("a generated column", "ALTER TABLE rides ADD COLUMN twice float8 GENERATED ALWAYS AS (lat * 2) STORED"),
    ready("an unlogged table", "ALTER TABLE rides SET UNLOGGED"),
    faulty("NOT NULL without a source", "ALTER TABLE rides ADD COLUMN city text NOT NULL", "city"),
    faulty(
        "a type that no record fits",
        "ALTER TABLE rides ALTER COLUMN name TYPE int4 USING 1",
        "would be dead letters",
    ),
    ready(
        "row-level security that a policy opens",
        "ALTER TABLE rides ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON rides FOR INSERT WITH CHECK (true)",
    ),
    faulty(
        "row-level security without a policy",
        "ALTER TABLE rides ENABLE ROW LEVEL SECURITY",
        "new row violates row-level security policy",
    ),
    faulty(
        "row-level security without INSERT",
        "ALTER TABLE rides ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON rides WITH CHECK (true); REVOKE INSERT ON rides FROM {role}",
        "may not insert into",
    ),
    faulty(
        "row-level security without TEMP",
        "ALTER TABLE rides ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON rides WITH CHECK (true); REVOKE TEMP ON DATABASE {db} FROM public",
        "GRANT TEMP ON DATABASE",
    ),
    with(SORTED, ready("sort_by with INSERT alone", "")),
    with(SORTED, faulty("sort_by without TEMP", "REVOKE TEMP ON DATABASE {db} FROM public", "GRANT TEMP ON DATABASE")),
    with(
        UPSERT,
        ready(
            "row-level security and upsert, row_security off",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT, UPDATE ON rides TO {role}; ALTER TABLE rides ENABLE ROW LEVEL SECURITY; CREATE POLICY everyone ON rides USING (true); ALTER ROLE {role} SET row_security = off",
        ),
    ),
    with(
        UPSERT,
        faulty("upsert without a unique index", "GRANT SELECT, UPDATE ON rides TO {role}", "CREATE UNIQUE INDEX ON"),
    ),
    with(
        UPSERT,
        faulty(
            "upsert with a partial index",
            "CREATE UNIQUE INDEX ON rides (id) WHERE id > 0; GRANT SELECT, UPDATE ON rides TO {role}",
            "CREATE UNIQUE INDEX ON",
        ),
    ),
    with(
        UPSERT,
        faulty(
            "upsert with a rule",
            "CREATE UNIQUE INDEX ON rides (id); GRANT SELECT, UPDATE ON rides TO {role}; CREATE RULE twice AS ON INSERT TO rides DO ALSO SELECT 1",
            "has rules",
        ),
    ),
    // Triggers and defaults.
    ready(
        "a trigger that numbers rows",
        "CREATE SEQUENCE numbers; ALTER TABLE rides ADD COLUMN n bigint; GRANT INSERT ON rides TO {role}; GRANT USAGE ON SEQUENCE numbers TO {role}; CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.n := nextval('public.numbers'); RETURN NEW; END$$; CREATE TRIGGER number BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION number()",
    ),
    faulty(
        "a trigger that may not number rows",
        "CREATE SEQUENCE numbers; ALTER TABLE rides ADD COLUMN n bigint; CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.n := nextval('public.numbers'); RETURN NEW; END$$; CREATE TRIGGER number BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION number()",
        "permission denied for sequence numbers",
    ),
    ready(
        "a trigger that writes a log",
        "CREATE TABLE log (n bigserial, id bigint); GRANT INSERT ON log TO {role}; GRANT USAGE ON SEQUENCE log_n_seq TO {role}; CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.log (id) VALUES (NEW.id); RETURN NULL; END$$; CREATE TRIGGER log AFTER INSERT ON rides FOR EACH ROW EXECUTE FUNCTION log()",
    ),
    ready("a default of a function", "ALTER TABLE rides ADD COLUMN made uuid NOT NULL DEFAULT gen_random_uuid()"),
    faulty(
        "a sequence at its end",
        "ALTER TABLE rides ADD COLUMN pk serial; GRANT USAGE ON SEQUENCE rides_pk_seq TO {role}; SELECT setval('rides_pk_seq', 2147483647)",
        "has no number left",
    ),
    // Columns, partitions and tables that are created.
    with(EVOLVE, ready("evolve", "ALTER TABLE rides DROP COLUMN lat; ALTER TABLE rides OWNER TO {role}")),
    with(
        EVOLVE,
        faulty(
            "evolve by another role than the owner",
            "ALTER TABLE rides DROP COLUMN lat",
            "only an owner adds columns",
        ),
    ),
    with(
        BY_TIME,
        ready(
            "partition_by",
            "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); ALTER TABLE rides OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
        ),
    ),
    with(
        BY_TIME,
        faulty(
            "partition_by by another role than the owner",
            "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); GRANT INSERT ON rides TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
            "only an owner adds partitions",
        ),
    ),
    with(
        BY_TIME,
        faulty(
            "partition_by without CREATE on the schema",
            "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); ALTER TABLE rides OWNER TO {role}",
            "GRANT CREATE ON SCHEMA",
        ),
    ),
    with(
        BY_TIME,
        faulty(
            "partition_by of one table",
            "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL); ALTER TABLE rides OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
            "is not partitioned",
        ),
    ),
    with(
        ROUTED,
        ready("a routed table", "CREATE TABLE rides_v (id bigint, lat float8); GRANT INSERT ON rides_v TO {role}"),
    ),
    with(
        ROUTED,
        ready(
            "a routed table with a serial column",
            "CREATE TABLE rides_v (id bigint, lat float8, pk bigserial); GRANT INSERT ON rides_v TO {role}; GRANT USAGE ON SEQUENCE rides_v_pk_seq TO {role}",
        ),
    ),
    with(
        ROUTED,
        faulty(
            "a routed table without INSERT",
            "CREATE TABLE rides_v (id bigint, lat float8)",
            "GRANT INSERT ON \"public\".\"rides_v\" TO {role}",
        ),
    ),
    with(ROUTED, faulty("a routed table that is missing", "", "would be dead letters")),
    with(ROUTED_CREATE, ready("a routed table that is created", "GRANT CREATE ON SCHEMA public TO {role}")),
    with(
        ROUTED_CREATE,
        faulty("a routed table that may not be created", "", "GRANT USAGE, CREATE ON SCHEMA \"public\""),
    ),
    with(
        ROUTED_UPSERT,
        ready(
            "a routed upsert",
            "CREATE TABLE rides_v (id bigint PRIMARY KEY, lat float8); GRANT SELECT, INSERT, UPDATE ON rides_v TO {role}",
        ),
    ),
    with(
        ROUTED_UPSERT,
        faulty(
            "a routed upsert without UPDATE",
            "CREATE TABLE rides_v (id bigint PRIMARY KEY, lat float8); GRANT SELECT, INSERT ON rides_v TO {role}",
            "GRANT UPDATE ON",
        ),
    ),
    // Registrations.
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        ..faulty(
            "registered with another cluster",
            "UPDATE tidegate.pipeline SET cluster_id = 'another'",
            "registered with the Kafka cluster `another`",
        )
    },
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        ..faulty(
            "the ledger of another cluster, whose logs are longer",
            "UPDATE tidegate.pipeline SET cluster_id = 'another'; UPDATE tidegate.ledger SET next_offset = 100000",
            "registered with the Kafka cluster `another`",
        )
    },
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        ..faulty("the ledger of another table", "UPDATE tidegate.pipeline SET target_oid = 1", "dropped and recreated")
    },
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        pipeline: INSERT_NEW,
        ..ready("registered with another mode", KEY_AND_RIGHTS)
    },
    Case {
        before: Some((
            "{role}",
            "{name}",
            "group = \"another-{name}\"\ntopics = [\"{topic}\"]\ntable.name = \"rides\"",
        )),
        ..faulty("registered with another group", "", "registered with the group")
    },
    Case {
        before: Some(("{role}", "{name}", "topics = [\"{topic}\"]\ntable.name = \"rides\"")),
        ..faulty(
            "the table was made again",
            "DROP TABLE rides; CREATE TABLE rides (id bigint NOT NULL, name text, lat float8); GRANT INSERT ON rides TO {role}",
            "dropped and recreated",
        )
    },
    Case {
        before: Some(("{role}", "other", "group = \"{name}-other\"\ntopics = [\"{topic}\"]\ntable.name = \"rides\"")),
        ..faulty("another pipeline feeds the table", "", "feeds `public.rides` from topic")
    },
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        ..faulty(
            "the ledger is beyond the log",
            "UPDATE tidegate.ledger SET next_offset = 100000",
            "log ends before the ledger's position",
        )
    },
    Case {
        before: Some(("{role}", "{name}", APPEND)),
        ..faulty("a row of the ledger is lost", "DELETE FROM tidegate.ledger WHERE partition = 0", "ledger")
    },
    // Databases.
    Case { database: "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", ..ready("LATIN1", "") },
    Case { database: "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", ..ready("SQL_ASCII", "") },
    // Topics.
    with(
        "topics = [\"{topic}\", \"{topic}x\"]\ntable.name = \"rides\"",
        faulty("a topic that is missing", "", "does not exist"),
    ),
    with("topic_pattern = \"^{topic}$\"\ntable.name = \"rides\"", ready("a pattern", "")),
];
