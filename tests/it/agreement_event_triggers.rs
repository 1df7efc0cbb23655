//! More environments of `agreement.rs`: event triggers, which may refuse logins and statements that create or change objects.

use crate::agreement_cases::{
    APPEND, BY_TIME, CREATE, Case, EVOLVE, LEDGER_MADE, ROUTED_CREATE, ROUTED_UPSERT, SORTED, UPSERT, faulty, ready,
    with,
};

/// Makes the ledger exist before the case's SQL runs, so that neither `check` nor `run` has to create it.
const fn later(case: Case) -> Case {
    Case { before: LEDGER_MADE, ..case }
}

/// Returns the SQL of a function that raises an error, and of an event trigger that calls it.
macro_rules! refusing {
    ($event:literal, $tags:literal) => {
        concat!(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS ",
            "$$BEGIN RAISE 'ask the owners first'; END$$; ",
            "CREATE EVENT TRIGGER no_ddl ON ",
            $event,
            " WHEN TAG IN (",
            $tags,
            ") EXECUTE FUNCTION refuse();"
        )
    };
}

pub(crate) const EVENT_TRIGGER_CASES: &[Case] = &[
    // The objects that the first start creates.
    faulty(
        "an event trigger that refuses the schema of the ledger",
        concat!(
            "DROP SCHEMA tidegate; GRANT CREATE ON DATABASE {db} TO {role};",
            refusing!("ddl_command_start", "'CREATE SCHEMA'")
        ),
        "`no_ddl`",
    ),
    faulty(
        "an event trigger that refuses the tables of the ledger",
        refusing!("ddl_command_start", "'CREATE TABLE'"),
        "`no_ddl`",
    ),
    faulty(
        "an event trigger that refuses the functions of the ledger",
        refusing!("ddl_command_end", "'CREATE FUNCTION'"),
        "`no_ddl`",
    ),
    later(ready(
        "an event trigger that refuses tables, none of which is created",
        refusing!("ddl_command_start", "'CREATE TABLE'"),
    )),
    with(
        CREATE,
        later(faulty(
            "an event trigger that refuses the table",
            concat!("GRANT CREATE ON SCHEMA public TO {role};", refusing!("ddl_command_start", "'CREATE TABLE'")),
            "`no_ddl`",
        )),
    ),
    with(
        CREATE,
        later(faulty(
            "an event trigger that refuses the table after it was created",
            concat!("GRANT CREATE ON SCHEMA public TO {role};", refusing!("ddl_command_end", "'CREATE TABLE'")),
            "`no_ddl`",
        )),
    ),
    with(
        CREATE,
        later(ready(
            "an event trigger that is disabled",
            concat!(
                "GRANT CREATE ON SCHEMA public TO {role};",
                refusing!("ddl_command_start", "'CREATE TABLE'"),
                "ALTER EVENT TRIGGER no_ddl DISABLE"
            ),
        )),
    ),
    with(
        CREATE,
        later(Case {
            says: "drew numbers from public.ddl_log_n_seq",
            ..ready(
                "an event trigger that writes a log",
                "GRANT CREATE ON SCHEMA public TO {role}; CREATE TABLE ddl_log (n bigserial, tag text); CREATE FUNCTION log() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN INSERT INTO public.ddl_log (tag) VALUES (tg_tag); END$$; CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION log()",
            )
        }),
    ),
    with(
        ROUTED_CREATE,
        later(faulty(
            "an event trigger that refuses a routed table",
            concat!("GRANT CREATE ON SCHEMA public TO {role};", refusing!("ddl_command_start", "'CREATE TABLE'")),
            "`no_ddl`",
        )),
    ),
    // Columns and partitions.
    with(
        EVOLVE,
        later(faulty(
            "an event trigger that refuses columns",
            concat!(
                "ALTER TABLE rides DROP COLUMN lat; ALTER TABLE rides OWNER TO {role};",
                refusing!("ddl_command_start", "'ALTER TABLE'")
            ),
            "`no_ddl`",
        )),
    ),
    with(
        EVOLVE,
        later(ready(
            "an event trigger that refuses columns, none of which is new",
            concat!("ALTER TABLE rides OWNER TO {role};", refusing!("ddl_command_start", "'ALTER TABLE'")),
        )),
    ),
    with(
        BY_TIME,
        later(faulty(
            "an event trigger that refuses partitions",
            concat!(
                "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); ALTER TABLE rides OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role};",
                refusing!("ddl_command_start", "'CREATE TABLE'")
            ),
            "`no_ddl`",
        )),
    ),
    with(
        BY_TIME,
        later(faulty(
            "an event trigger that refuses to attach partitions",
            concat!(
                "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); ALTER TABLE rides OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role};",
                refusing!("ddl_command_start", "'ALTER TABLE'")
            ),
            "`no_ddl`",
        )),
    ),
    // Staging tables.
    with(
        UPSERT,
        later(faulty(
            "an event trigger that refuses the staging table",
            concat!(
                "ALTER TABLE rides ADD PRIMARY KEY (id); GRANT SELECT, UPDATE ON rides TO {role};",
                refusing!("ddl_command_start", "'CREATE TABLE AS'")
            ),
            "`no_ddl`",
        )),
    ),
    with(
        UPSERT,
        later(ready(
            "an event trigger that refuses tables but not the staging table",
            concat!(
                "ALTER TABLE rides ADD PRIMARY KEY (id); GRANT SELECT, UPDATE ON rides TO {role};",
                refusing!("ddl_command_start", "'CREATE TABLE'")
            ),
        )),
    ),
    with(
        SORTED,
        later(faulty(
            "an event trigger that refuses to drop tables",
            refusing!("ddl_command_start", "'DROP TABLE'"),
            "`no_ddl`",
        )),
    ),
    with(
        ROUTED_UPSERT,
        later(faulty(
            "an event trigger that refuses the staging table of a routed table",
            concat!(
                "CREATE TABLE rides_v (id bigint PRIMARY KEY, lat float8); GRANT SELECT, INSERT, UPDATE ON rides_v TO {role};",
                refusing!("ddl_command_end", "'CREATE TABLE AS'")
            ),
            "`no_ddl`",
        )),
    ),
    // The objects that only the trial of `check` creates.
    with(
        APPEND,
        later(Case {
            says: "not tried",
            ..ready(
                "an event trigger that refuses the sequences of the trial",
                concat!(
                    "ALTER TABLE rides ADD COLUMN pk bigserial; GRANT USAGE ON SEQUENCE rides_pk_seq TO {role};",
                    refusing!("ddl_command_start", "'CREATE SEQUENCE', 'CREATE TABLE', 'CREATE VIEW'")
                ),
            )
        }),
    ),
    with(
        APPEND,
        later(Case {
            says: "not tried",
            ..ready(
                "an event trigger that refuses the tables of the trial",
                concat!(
                    "CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$; CREATE TRIGGER number BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION number();",
                    refusing!("ddl_command_start", "'CREATE TABLE'")
                ),
            )
        }),
    ),
    // A login is an event too.
    faulty(
        "an event trigger that refuses the login",
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN IF session_user = '{role}' THEN RAISE 'not you'; END IF; END$$; CREATE EVENT TRIGGER no_login ON login EXECUTE FUNCTION refuse()",
        "not you",
    ),
];
