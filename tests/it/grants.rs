//! The statements that `check` prints grant exactly the rights that are needed. A role with these rights can drain the topic, and
//! run most other commands. If one of the statements is left out, `check` names it.

use tidegate_harness::{Record, unique_name};

use crate::cli::tidegate;
use crate::support::World;

/// A pipeline, and the tables into which it writes. A superuser runs `sql` before the pipeline starts. The topic has 20 records.
/// The pipeline makes `letters` dead letters and `rows` rows, which the query `count` counts.
struct Scenario {
    name: &'static str,
    sql: &'static str,
    /// The pipeline's settings after `topics`.
    pipeline: &'static str,
    count: &'static str,
    rows: i64,
    letters: i64,
}

const MAPPED: &str = "columns = { id = \"id\", name = \"name\", n = \"n\" }";
const RIDES: &str = "CREATE TABLE rides (id bigint PRIMARY KEY, name text, n bigint)";
const COUNT: &str = "SELECT count(*) FROM rides";
const APPEND: Scenario =
    Scenario { name: "append", sql: RIDES, pipeline: "table.name = \"rides\"", count: COUNT, rows: 20, letters: 0 };

const SCENARIOS: &[Scenario] = &[
    APPEND,
    Scenario { name: "sort_by", pipeline: "table = { name = \"rides\", sort_by = [\"id\"] }", ..APPEND },
    Scenario {
        name: "insert_new",
        pipeline: "table = { name = \"rides\", mode = \"insert_new\", key = [\"id\"] }",
        ..APPEND
    },
    Scenario { name: "upsert", pipeline: "table = { name = \"rides\", mode = \"upsert\", key = [\"id\"] }", ..APPEND },
    Scenario {
        name: "upsert with deletes",
        pipeline: "table = { name = \"rides\", mode = \"upsert\", key = [\"id\"], deletes = true }",
        ..APPEND
    },
    Scenario {
        name: "aggregate",
        pipeline: "table = { name = \"rides\", mode = \"aggregate\", key = [\"id\"] }\n\
                   columns = { id = \"id\", n = { field = \"n\", aggregate = \"sum\" } }",
        ..APPEND
    },
    Scenario {
        name: "sequences",
        sql: "CREATE SEQUENCE shared; CREATE TABLE rides (id bigint, name text, n bigint, pk bigserial PRIMARY KEY,
              always bigint GENERATED ALWAYS AS IDENTITY, number bigint DEFAULT nextval('shared'))",
        ..APPEND
    },
    Scenario {
        name: "upsert with a serial column",
        sql: "CREATE TABLE rides (id bigint UNIQUE, name text, n bigint, pk serial PRIMARY KEY)",
        pipeline: "table = { name = \"rides\", mode = \"upsert\", key = [\"id\"] }",
        ..APPEND
    },
    Scenario {
        name: "another schema",
        sql: "CREATE SCHEMA app; CREATE TABLE app.rides (id bigint, name text, n bigint)",
        pipeline: "table.name = \"app.rides\"",
        count: "SELECT count(*) FROM app.rides",
        ..APPEND
    },
    Scenario {
        name: "create",
        sql: "",
        pipeline: "table = { name = \"rides\", create = true }\n\
                   columns = { id = { field = \"id\", type = \"int8\" }, name = { field = \"name\", type = \"text\" } }",
        ..APPEND
    },
    Scenario { name: "evolve", pipeline: "table = { name = \"rides\", evolve = \"add\" }\n", ..APPEND },
    Scenario {
        name: "routed tables",
        sql: "CREATE TABLE rides_0 (id bigint, name text, n bigint); CREATE TABLE rides_1 (id bigint, name text, n bigserial)",
        pipeline: "table.name = \"rides_{n}\"",
        count: "SELECT (SELECT count(*) FROM rides_0) + (SELECT count(*) FROM rides_1)",
        ..APPEND
    },
    Scenario {
        name: "routed tables that are created",
        sql: "",
        pipeline: "table = { name = \"rides_{n}\", create = true }\ncolumns.id = { field = \"id\", type = \"int8\" }",
        count: "SELECT (SELECT count(*) FROM rides_0) + (SELECT count(*) FROM rides_1)",
        ..APPEND
    },
    Scenario {
        name: "dead letters",
        sql: "CREATE TABLE rides (id bigint CHECK (id <> 3), name text, n bigint)",
        pipeline: "table.name = \"rides\"\ndead_letters.max_share = 0.5",
        rows: 19,
        letters: 1,
        ..APPEND
    },
];

/// A scenario in its own database. `config` drains with a role that has no rights at first.
struct Case<'s> {
    scenario: &'s Scenario,
    world: World,
    role: String,
    config: String,
}

impl<'s> Case<'s> {
    async fn new(scenario: &'s Scenario, topic: Option<&str>) -> Self {
        let mut world = World::new(1).await;
        match topic {
            Some(topic) => topic.clone_into(&mut world.topic),
            None => world.produce((0..20).map(|n| Record::new(format!(r#"{{"id":{n},"name":"v","n":{}}}"#, n % 2)))),
        }
        let role = unique_name("clerk");
        let database = &world.database.name;
        let sql = scenario.sql;
        world
            .sql(&format!(
                "{sql}; CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC;
                 REVOKE TEMP ON DATABASE {database} FROM PUBLIC"
            ))
            .await;
        let url = world.database.url.replacen("postgres@", &format!("{role}@"), 1);
        let columns = if scenario.pipeline.contains("columns") { "" } else { MAPPED };
        let config = world.config_at(&url, &format!("{}\n{columns}", scenario.pipeline));
        Self { scenario, world, role, config }
    }

    /// Returns the statements that `check` prints to grant the missing rights, with placeholders for the names of this case.
    fn missing(&self) -> Vec<String> {
        let report = tidegate(&self.config, &["check", "--json"]).json();
        let grants = report["pipelines"][0]["grants"].as_array().expect("statements").clone();
        let open = |sql: &str| sql.replace(&self.role, "{role}").replace(&self.world.database.name, "{db}");
        grants.iter().map(|sql| open(sql.as_str().expect("a statement"))).collect()
    }

    async fn grant(&self, sql: &str) {
        self.world.sql(&sql.replace("{role}", &self.role).replace("{db}", &self.world.database.name)).await;
    }
}

async fn grants_are_exact(scenarios: &[Scenario]) {
    for scenario in scenarios {
        let name = scenario.name;
        let case = Case::new(scenario, None).await;
        let mut all: Vec<String> = Vec::new();
        loop {
            let missing = case.missing();
            if missing.is_empty() {
                break;
            }
            for sql in missing {
                assert!(!all.contains(&sql), "{name}: {sql} does not help");
                case.grant(&sql).await;
                all.push(sql);
            }
        }
        tidegate(&case.config, &["check"]).ok();
        let (code, log) = case.world.drain(&case.config);
        assert_eq!(code, Some(0), "{name}: {log}");
        assert_eq!(case.world.number(case.scenario.count).await, scenario.rows, "{name}");
        assert_eq!(case.world.number("SELECT count(*) FROM tidegate.dead_letter").await, scenario.letters, "{name}");
        case.serves_the_commands().await;
        for left_out in &all {
            let case = Case::new(scenario, Some(&case.world.topic)).await;
            for sql in all.iter().filter(|sql| *sql != left_out) {
                case.grant(sql).await;
            }
            assert!(case.missing().contains(left_out), "{name}: nobody misses {left_out}, one of {all:#?}");
        }
    }
}

impl Case<'_> {
    /// Checks that commands such as `lag` and `offsets set` work with only the printed rights. If `verify` fails, its error must
    /// name the missing right.
    async fn serves_the_commands(&self) {
        for arguments in [&["lag"][..], &["offsets", "show"], &["pipelines", "list"], &["dead-letters", "list"]] {
            tidegate(&self.config, arguments).ok();
        }
        if self.scenario.letters > 0 {
            self.world.sql("ALTER TABLE rides DROP CONSTRAINT rides_id_check").await;
            tidegate(&self.config, &["dead-letters", "replay", "--all"]).ok();
            assert_eq!(self.world.number(COUNT).await, 20);
            tidegate(&self.config, &["dead-letters", "purge", "--all", "--yes"]).ok();
        }
        let verified = tidegate(&self.config, &["verify"]);
        if verified.code != 0 {
            assert!(verified.err.contains("GRANT SELECT ON"), "{}: {verified}", self.scenario.name);
        }
        if self.scenario.name == "insert_new" {
            tidegate(&self.config, &["replay", "--from", "earliest"]).ok();
        }
        tidegate(&self.config, &["offsets", "set", "--offset", "earliest", "--yes"]).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_the_printed_grants_drains_and_each_of_them_is_needed() {
    grants_are_exact(&SCENARIOS[..6]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_grants_are_exact_for_sequences_created_and_routed_tables_too() {
    grants_are_exact(&SCENARIOS[6..]).await;
}
