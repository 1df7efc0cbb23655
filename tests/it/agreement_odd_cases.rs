//! More environments of `agreement.rs`: damaged ledgers, keys that ON CONFLICT can't use, triggers of every kind, unusual target
//! tables, values of `start`, and a group whose members use another protocol.

use crate::agreement_cases::{APPEND, CREATE, Case, EVOLVE, INSERT_NEW, LEDGER_MADE, UPSERT, faulty, ready, with};

/// Creates the ledger before the case's SQL changes it. Most of these changes damage the ledger.
const fn damaged(case: Case) -> Case {
    Case { before: LEDGER_MADE, ..case }
}

/// Makes another role the owner of the ledger. The pipeline's role may use the ledger.
const fn of_another(case: Case) -> Case {
    Case {
        before: Some((
            "postgres",
            "other",
            "group = \"{name}-other\"\ntopics = [\"{topic}_empty\"]\ntable.name = \"rides\"",
        )),
        ..case
    }
}

const BY_COMPUTED: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", mode = \"upsert\", key = [\"after\"] }\n\
                           columns = { id = \"id\", name = \"name\", lat = \"lat\" }";

pub(crate) const ODD_CASES: &[Case] = &[
    // Keys that Postgres computes.
    with(
        BY_COMPUTED,
        ready(
            "an upsert by a generated column, with rights on columns",
            "ALTER TABLE rides ADD COLUMN after bigint GENERATED ALWAYS AS (id + 1) STORED; ALTER TABLE rides ALTER after SET NOT NULL; CREATE UNIQUE INDEX ON rides (after); GRANT SELECT (id, name, lat, after), UPDATE (id, name, lat) ON rides TO {role}",
        ),
    ),
    with(
        BY_COMPUTED,
        faulty(
            "an upsert by a generated column that the role may not read",
            "ALTER TABLE rides ADD COLUMN after bigint GENERATED ALWAYS AS (id + 1) STORED; ALTER TABLE rides ALTER after SET NOT NULL; CREATE UNIQUE INDEX ON rides (after); GRANT SELECT (id, name, lat), UPDATE (id, name, lat) ON rides TO {role}",
            "GRANT SELECT ON",
        ),
    ),
    with(
        BY_COMPUTED,
        faulty(
            "an upsert by a generated column that may be NULL",
            "ALTER TABLE rides ADD COLUMN after bigint GENERATED ALWAYS AS (id + 1) STORED; CREATE UNIQUE INDEX ON rides (after); GRANT SELECT, UPDATE ON rides TO {role}",
            "SET NOT NULL",
        ),
    ),
    // Ledgers.
    of_another(faulty(
        "row-level security on the tables of another role's ledger",
        "ALTER SCHEMA tidegate OWNER TO postgres; GRANT USAGE ON SCHEMA tidegate TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO {role}; ALTER TABLE tidegate.ledger ENABLE ROW LEVEL SECURITY; ALTER TABLE tidegate.pipeline ENABLE ROW LEVEL SECURITY",
        "row-level security",
    )),
    damaged(faulty(
        "row-level security that is forced on the ledger's owner",
        "ALTER TABLE tidegate.ledger ENABLE ROW LEVEL SECURITY; ALTER TABLE tidegate.ledger FORCE ROW LEVEL SECURITY",
        "row-level security",
    )),
    damaged(ready(
        "row-level security that spares the ledger's owner",
        "ALTER TABLE tidegate.ledger ENABLE ROW LEVEL SECURITY",
    )),
    damaged(faulty(
        "a ledger without its function",
        "DO $$DECLARE f text; BEGIN FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'tidegate'::regnamespace AND proname LIKE 'advance%' LOOP EXECUTE 'DROP FUNCTION ' || f; END LOOP; END$$",
        "advance",
    )),
    damaged(faulty(
        "a ledger without the table of instances",
        "DROP TABLE tidegate.instance CASCADE",
        "tidegate.instance",
    )),
    damaged(faulty("a ledger without dead letters", "DROP TABLE tidegate.dead_letter CASCADE", "tidegate.dead_letter")),
    damaged(faulty(
        "a migration that failed half way",
        "UPDATE tidegate._sqlx_migrations SET success = false WHERE version = (SELECT max(version) FROM tidegate._sqlx_migrations)",
        "migration",
    )),
    damaged(faulty(
        "the ledger of another build",
        "UPDATE tidegate._sqlx_migrations SET checksum = '\\x00' WHERE version = 1",
        "another build",
    )),
    damaged(ready(
        "the ledger of a newer version",
        "INSERT INTO tidegate._sqlx_migrations SELECT 9999, 'later', now(), true, '\\x00', 0",
    )),
    // Keys.
    with(
        UPSERT,
        faulty(
            "upsert with a unique index that is invalid",
            "CREATE UNIQUE INDEX by_id ON rides (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_id'::regclass; GRANT SELECT, UPDATE ON rides TO {role}",
            "CREATE UNIQUE INDEX ON",
        ),
    ),
    with(
        UPSERT,
        faulty(
            "upsert with a deferrable key",
            "ALTER TABLE rides ADD UNIQUE (id) DEFERRABLE; GRANT SELECT, UPDATE ON rides TO {role}",
            "CREATE UNIQUE INDEX ON",
        ),
    ),
    with(
        INSERT_NEW,
        faulty(
            "insert_new with a deferrable key",
            "ALTER TABLE rides ADD UNIQUE (id) DEFERRABLE; GRANT SELECT ON rides TO {role}",
            "CREATE UNIQUE INDEX ON",
        ),
    ),
    with(
        INSERT_NEW,
        faulty(
            "insert_new beside a deferrable constraint on another column",
            "CREATE UNIQUE INDEX ON rides (id); ALTER TABLE rides ADD UNIQUE (name) DEFERRABLE; GRANT SELECT ON rides TO {role}",
            "would be dead letters",
        ),
    ),
    faulty(
        "an exclusion constraint that all rows violate",
        "ALTER TABLE rides ADD EXCLUDE USING btree (name WITH =)",
        "would be dead letters",
    ),
    // Triggers.
    faulty(
        "a trigger for each statement that raises",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$; CREATE TRIGGER no BEFORE INSERT ON rides FOR EACH STATEMENT EXECUTE FUNCTION no()",
        "not today",
    ),
    faulty(
        "a deferred constraint trigger that raises",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$; CREATE CONSTRAINT TRIGGER no AFTER INSERT ON rides DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()",
        "not today",
    ),
    ready(
        "a trigger that skips all rows",
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; CREATE TRIGGER skip BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION skip()",
    ),
    ready(
        "a trigger that is disabled",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$; CREATE TRIGGER no BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION no(); ALTER TABLE rides DISABLE TRIGGER no",
    ),
    Case {
        says: "nowhere",
        ..ready(
            "a trigger that fails for one row, as if the plan were wrong",
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 299 THEN PERFORM * FROM nowhere; END IF; RETURN NEW; END$$; CREATE TRIGGER look BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION look()",
        )
    },
    Case {
        says: "not today",
        ..ready(
            "a deferred constraint trigger that raises for one row",
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 7 THEN RAISE 'not today'; END IF; RETURN NULL; END$$; CREATE CONSTRAINT TRIGGER no AFTER INSERT ON rides DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()",
        )
    },
    // Settings.
    ready(
        "strings of another standard",
        "ALTER ROLE {role} SET standard_conforming_strings = off; ALTER ROLE {role} SET backslash_quote = off; ALTER ROLE {role} SET bytea_output = 'escape'; ALTER ROLE {role} SET check_function_bodies = off",
    ),
    with(
        UPSERT,
        ready(
            "tablespaces for temporary tables that are missing",
            "ALTER TABLE rides ADD PRIMARY KEY (id); GRANT SELECT, UPDATE ON rides TO {role}; ALTER ROLE {role} SET temp_tablespaces = 'nowhere'; ALTER ROLE {role} SET work_mem = '64kB'",
        ),
    ),
    with(
        EVOLVE,
        faulty(
            "evolve without the right to take an advisory lock",
            "ALTER TABLE rides DROP COLUMN lat; ALTER TABLE rides OWNER TO {role}; REVOKE EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) FROM public",
            "pg_advisory_lock",
        ),
    ),
    with(
        CREATE,
        faulty(
            "create where an index has the table's name",
            "GRANT CREATE ON SCHEMA public TO {role}; CREATE INDEX made ON rides (id)",
            "made",
        ),
    ),
    // Targets.
    faulty(
        "a materialized view",
        "DROP TABLE rides; CREATE MATERIALIZED VIEW rides AS SELECT 1::int8 AS id, 'x'::text AS name, 1::float8 AS lat",
        "is a view",
    ),
    faulty(
        "a partition whose bounds no row fits",
        "DROP TABLE rides; CREATE TABLE whole (id bigint, name text, lat float8) PARTITION BY RANGE (id); CREATE TABLE rides PARTITION OF whole FOR VALUES FROM (10000) TO (20000); GRANT INSERT ON rides TO {role}",
        "would be dead letters",
    ),
    ready("a table with children", "CREATE TABLE child () INHERITS (rides)"),
    ready(
        "a mapped identity that is always generated",
        "ALTER TABLE rides ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
    ),
    with(
        "topics = [\"{topic}\"]\ntable.name = '\"App\".\"My Rides\"'\ncolumns = { id = \"id\" }",
        ready(
            "names that need quotes",
            "CREATE SCHEMA \"App\"; CREATE TABLE \"App\".\"My Rides\" (id bigint); GRANT USAGE ON SCHEMA \"App\" TO {role}; GRANT INSERT ON \"App\".\"My Rides\" TO {role}",
        ),
    ),
    // Starts and groups.
    with("topics = [\"{topic}\"]\nstart = \"latest\"\ntable.name = \"rides\"", ready("a start at the end", "")),
    with(
        "topics = [\"{topic}\"]\nstart = \"committed\"\ntable.name = \"rides\"",
        ready("a start where nothing was committed", ""),
    ),
    with(
        "topics = [\"{topic}\"]\nstart = \"2099-01-01T00:00:00Z\"\ntable.name = \"rides\"",
        ready("a start in the future", ""),
    ),
    with(
        "topics = [\"{topic}\"]\ngroup_protocol = \"consumer\"\ntable.name = \"rides\"",
        ready("the protocol of KIP-848", ""),
    ),
    with(
        "topics = [\"{topic}\"]\ngroup = \"{topic}_range\"\ntable.name = \"rides\"",
        faulty("a group whose members use another protocol", "", "`range`"),
    ),
    with(
        "topics = [\"{topic}\"]\ngroup = \"{topic}_range\"\ngroup_protocol = \"eager\"\ntable.name = \"rides\"",
        ready("a group whose members use the same protocol", ""),
    ),
    with(
        APPEND,
        ready(
            "a database without the schema public",
            "CREATE SCHEMA kept; ALTER TABLE rides SET SCHEMA kept; DROP SCHEMA public; CREATE SCHEMA public; ALTER TABLE kept.rides SET SCHEMA public; GRANT USAGE ON SCHEMA public TO {role}",
        ),
    ),
];
