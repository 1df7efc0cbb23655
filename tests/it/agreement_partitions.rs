//! More environments of `agreement.rs`: partitions that can't be created or removed, while existing partitions may
//! accept the rows.

use crate::agreement_cases::{BY_TIME, Case, LEDGER_MADE, faulty, ready, with};

/// Creates the table for another role, and lets the pipeline's role insert rows.
macro_rules! foreign_table {
    () => {
        "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); GRANT INSERT ON rides TO {role}; "
    };
}

macro_rules! own_table {
    () => {
        "DROP TABLE rides; CREATE TABLE rides (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at); ALTER TABLE rides OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}; "
    };
}

/// Creates a partition for two weeks around the present. Tidegate would give the partition another name and other bounds.
macro_rules! present {
    () => {
        "DO $$BEGIN EXECUTE format('CREATE TABLE rides_now PARTITION OF rides FOR VALUES FROM (%L) TO (%L)', now() - interval '7 days', now() + interval '7 days'); END$$; "
    };
}

macro_rules! refusing {
    ($tags:literal) => {
        concat!(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'ask the owners first'; END$$; CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN (",
            $tags,
            ") EXECUTE FUNCTION refuse();"
        )
    };
}

/// Makes the ledger exist before the case's SQL runs, so that neither `check` nor `run` has to create it.
const fn later(case: Case) -> Case {
    Case { before: LEDGER_MADE, ..case }
}

/// Returns a case in which the pipeline is ready and `check` prints the warning `says`.
const fn warned(name: &'static str, sql: &'static str, says: &'static str) -> Case {
    with(BY_TIME, later(Case { says, ..ready(name, sql) }))
}

const WITH_DEFAULT: &str = "topics = [\"{topic}\"]\ntable = { name = \"rides\", partition_by = { column = \"at\", interval = \"1 day\", default = true } }\n\
                            columns = { id = \"id\", at = { meta = \"timestamp\" } }";

pub(crate) const PARTITION_CASES: &[Case] = &[
    warned(
        "partitions of another owner, whose DEFAULT accepts the rows",
        concat!(foreign_table!(), "CREATE TABLE rides_rest PARTITION OF rides DEFAULT"),
        "ALTER TABLE \"public\".\"rides\" OWNER TO",
    ),
    warned(
        "partitions of another owner, one of which accepts the rows",
        concat!(foreign_table!(), present!()),
        "ALTER TABLE \"public\".\"rides\" OWNER TO",
    ),
    warned(
        "partitions without CREATE on the schema, whose DEFAULT accepts the rows",
        concat!(
            own_table!(),
            "CREATE TABLE rides_rest PARTITION OF rides DEFAULT; REVOKE CREATE ON SCHEMA public FROM {role}"
        ),
        "GRANT CREATE ON SCHEMA",
    ),
    with(
        BY_TIME,
        later(faulty(
            "partitions of another owner, none of which accepts the rows",
            concat!(
                foreign_table!(),
                "CREATE TABLE rides_old PARTITION OF rides FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')"
            ),
            "ALTER TABLE \"public\".\"rides\" OWNER TO",
        )),
    ),
    with(
        BY_TIME,
        later(faulty(
            "partitions of another owner, whose DEFAULT accepts the rows, without INSERT",
            concat!(
                foreign_table!(),
                "CREATE TABLE rides_rest PARTITION OF rides DEFAULT; REVOKE INSERT ON rides FROM {role}"
            ),
            "GRANT INSERT ON",
        )),
    ),
    warned(
        "an event trigger that refuses partitions, where DEFAULT accepts the rows",
        concat!(own_table!(), "CREATE TABLE rides_rest PARTITION OF rides DEFAULT; ", refusing!("'CREATE TABLE'")),
        "`no_ddl`",
    ),
    with(
        BY_TIME,
        later(faulty(
            "an event trigger that refuses partitions by the SQLSTATE of a bad row",
            concat!(
                own_table!(),
                "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'ask the owners first' USING ERRCODE = 'check_violation'; END$$; CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()"
            ),
            "`no_ddl`",
        )),
    ),
    with(WITH_DEFAULT, later(ready("partitions with a DEFAULT partition", own_table!()))),
    with(
        WITH_DEFAULT,
        later(faulty(
            "partitions of another owner, one of which accepts the rows, without the configured DEFAULT",
            concat!(foreign_table!(), present!()),
            "ALTER TABLE \"public\".\"rides\" OWNER TO",
        )),
    ),
    with(
        WITH_DEFAULT,
        later(faulty(
            "a table with the name of the DEFAULT partition",
            concat!(own_table!(), present!(), "CREATE TABLE rides_default ()"),
            "rename them",
        )),
    ),
    with(
        WITH_DEFAULT,
        later(Case {
            says: "`no_ddl`",
            ..ready(
                "an event trigger that refuses to attach partitions, where the configured DEFAULT accepts the rows",
                concat!(
                    own_table!(),
                    "CREATE TABLE rides_default PARTITION OF rides DEFAULT; ",
                    refusing!("'ALTER TABLE'")
                ),
            )
        }),
    ),
    with(
        "topics = [\"{topic}\"]\ntable = { name = \"rides\", partition_by = { column = \"at\", interval = \"1 day\", ahead = 0, retention = \"30d\" } }\n\
         columns = { id = \"id\", at = { meta = \"timestamp\" } }",
        later(Case {
            says: "`no_ddl`",
            ..ready(
                "an event trigger that refuses to remove an expired partition",
                concat!(
                    own_table!(),
                    present!(),
                    "CREATE TABLE rides_p20200101 PARTITION OF rides FOR VALUES FROM ('2020-01-01') TO ('2020-01-02'); ",
                    refusing!("'ALTER TABLE'")
                ),
            )
        }),
    ),
    warned(
        "a table with the name of a later partition",
        concat!(
            own_table!(),
            "DO $$BEGIN EXECUTE 'CREATE TABLE rides_p' || to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD') || ' ()'; END$$"
        ),
        "rename them",
    ),
    warned(
        "an event trigger that refuses to attach partitions, and a table with the name of the first one",
        concat!(
            own_table!(),
            present!(),
            "DO $$BEGIN EXECUTE 'CREATE TABLE rides_p' || to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD') || ' ()'; END$$; ",
            refusing!("'ALTER TABLE'")
        ),
        "`no_ddl`",
    ),
    with(
        BY_TIME,
        later(faulty(
            "a table with the name of the current partition",
            concat!(
                own_table!(),
                "DO $$BEGIN EXECUTE 'CREATE TABLE rides_p' || to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD') || ' ()'; END$$"
            ),
            "rename them",
        )),
    ),
];
