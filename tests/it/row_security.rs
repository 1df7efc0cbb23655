//! Row-level security in the modes append, insert_new and upsert. If a policy refuses a row, only its record becomes a dead
//! letter. A missing right still stops the pipeline.

use tidegate_harness::{Record, unique_name};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

/// A table with the rows of several tenants, and the role with which the daemon connects. The policy allows the role only the
/// rows of tenant `a`. The role doesn't own the table. Its rights are those that `new` grants.
struct Tenants {
    world: World,
    role: String,
}

const RECORDS: [&str; 4] = [
    r#"{"id":1,"tenant":"a"}"#,
    r#"{"id":2,"tenant":"b"}"#,
    r#"{"id":3,"tenant":"a"}"#,
    r#"{"tenant":"a","id":4,"v":9}"#,
];

impl Tenants {
    /// Creates the table, the role and the policy. `table` is the part of `CREATE TABLE t` after the name.
    async fn new(table: &str, rights: &str) -> Self {
        let (world, role) = (World::new(1).await, unique_name("clerk"));
        world
            .sql(&format!(
                "CREATE TABLE t {table}; CREATE ROLE {role} LOGIN; CREATE SCHEMA tidegate AUTHORIZATION {role};
                 GRANT {rights} ON t TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY own ON t USING (tenant = 'a') WITH CHECK (tenant = 'a')"
            ))
            .await;
        Self { world, role }
    }

    fn config(&self, pipeline: &str) -> String {
        let url = self.world.database.url.replacen("postgres@", &format!("{}@", self.role), 1);
        self.world.config_at(&url, &format!("table.name = \"t\"\ndead_letters.max_share = 1.0\n{pipeline}"))
    }

    fn produce(&self, records: &[&str]) {
        self.world.produce(records.iter().map(|value| Record::new(*value).to(0)));
    }

    fn drained(&self, pipeline: &str) -> String {
        let config = self.config(pipeline);
        tidegate(&config, &["check"]).ok();
        let (code, log) = self.world.drain(&config);
        assert_eq!(code, Some(0), "{log}");
        log
    }

    async fn rows(&self) -> String {
        let sql = "SELECT coalesce(string_agg(concat_ws(':', id, tenant, v), ',' ORDER BY id), '') FROM t";
        self.world.text(sql).await
    }

    async fn refused(&self) -> String {
        let sql = "SELECT coalesce(string_agg(record_offset || ':' || coalesce(sqlstate, reason) || ':' || detail, ',' \
                   ORDER BY record_offset), '') FROM tidegate.dead_letter";
        self.world.text(sql).await
    }
}

const BY_POLICY: &str = "1:42501:new row violates row-level security policy for table \"t\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_policy_refuses_costs_its_record_alone_in_every_mode() {
    let plain = "(id int PRIMARY KEY, tenant text, v int)";
    let defaults = "(id int PRIMARY KEY, tenant text, v int DEFAULT 7)";
    for (table, rights, pipeline, expected) in [
        (plain, "INSERT", "", "1:a,3:a,4:a:9"),
        (defaults, "INSERT", "", "1:a:7,3:a:7,4:a:9"),
        (plain, "INSERT", "table.sort_by = [\"id\"]", "1:a,3:a,4:a:9"),
        (plain, "INSERT, SELECT", "table.mode = \"insert_new\"\ntable.key = [\"id\"]", "1:a,3:a,4:a:9"),
        (plain, "INSERT, SELECT, UPDATE", "table.mode = \"upsert\"\ntable.key = [\"id\"]", "1:a,3:a,4:a:9"),
        (defaults, "INSERT, SELECT, UPDATE", "table.mode = \"upsert\"\ntable.key = [\"id\"]", "1:a:7,3:a:7,4:a:9"),
    ] {
        let tenants = Tenants::new(table, rights).await;
        tenants.produce(&RECORDS);
        tenants.drained(pipeline);
        assert_eq!(tenants.rows().await, expected, "{table} {pipeline}");
        assert_eq!(tenants.refused().await, BY_POLICY, "{table} {pipeline}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_refuses_every_record_so_far_stops_nothing() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants.produce(&[r#"{"id":1,"tenant":"b"}"#, r#"{"id":2,"tenant":"c"}"#]);
    let (code, log) = tenants.world.drain(&tenants.config(""));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(tenants.refused().await.matches("42501").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_of_a_row_that_a_policy_hides_is_a_dead_letter_and_a_delete_finds_nothing() {
    let tenants = Tenants::new("(id int PRIMARY KEY, tenant text, v int)", "INSERT, SELECT, UPDATE, DELETE").await;
    tenants.world.sql("INSERT INTO t VALUES (1, 'b', 1), (2, 'b', 2)").await;
    let keyed = |key: &str, value: Option<&str>| {
        let record = value.map_or_else(Record::tombstone, Record::new);
        record.key(key).to(0)
    };
    tenants.world.produce([
        keyed(r#"{"id":1}"#, Some(r#"{"id":1,"tenant":"a","v":5}"#)),
        keyed(r#"{"id":2}"#, None),
        keyed(r#"{"id":3}"#, Some(r#"{"id":3,"tenant":"a","v":3}"#)),
    ]);
    let (code, log) =
        tenants.world.drain(&tenants.config("table.mode = \"upsert\"\ntable.key = [\"id\"]\ntable.deletes = true"));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(tenants.rows().await, "1:b:1,2:b:2,3:a:3");
    let refused = tenants.refused().await;
    assert!(refused.starts_with("0:42501:") && refused.contains("USING expression"), "{refused}");
    assert_eq!(refused.matches("42501").count(), 1, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_meets_its_policies_where_they_are_forced() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants.world.sql(&format!("ALTER TABLE t OWNER TO {}", tenants.role)).await;
    tenants.produce(&RECORDS);
    // Without FORCE, the policies don't apply to the table's owner.
    tenants.drained("");
    assert_eq!((tenants.rows().await.as_str(), tenants.refused().await.as_str()), ("1:a,2:b,3:a,4:a:9", ""));
    tenants.world.sql("ALTER TABLE t FORCE ROW LEVEL SECURITY; TRUNCATE t").await;
    tenants.produce(&RECORDS);
    tenants.drained("");
    assert_eq!(tenants.rows().await, "1:a,3:a,4:a:9");
    assert!(tenants.refused().await.starts_with("5:42501:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_of_a_partitioned_table_apply_and_those_of_its_partitions_dont() {
    let tenants = Tenants::new("(id int, tenant text, v int) PARTITION BY LIST (tenant)", "INSERT").await;
    tenants
        .world
        .sql(
            "CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t_rest PARTITION OF t DEFAULT;
              ALTER TABLE t_a ENABLE ROW LEVEL SECURITY; CREATE POLICY never ON t_a WITH CHECK (false)",
        )
        .await;
    tenants.produce(&RECORDS);
    tenants.drained("");
    assert_eq!((tenants.rows().await.as_str(), tenants.refused().await.as_str()), ("1:a,3:a,4:a:9", BY_POLICY));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_records_name_have_each_their_own_policies() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants.world.sql(&format!("CREATE TABLE u (id int, tenant text); GRANT INSERT ON u TO {}", tenants.role)).await;
    tenants.produce(&[
        r#"{"to":"t","id":1,"tenant":"a"}"#,
        r#"{"to":"t","id":2,"tenant":"b"}"#,
        r#"{"to":"u","id":3,"tenant":"b"}"#,
    ]);
    let config = tenants.config("columns = { id = \"id\", tenant = \"tenant\" }");
    let config = config.replace("table.name = \"t\"", "table.name = \"{to}\"");
    let (code, log) = tenants.world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!((tenants.rows().await.as_str(), tenants.refused().await.as_str()), ("1:a", BY_POLICY));
    assert_eq!(tenants.world.number("SELECT count(*) FROM u").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_security_that_comes_and_a_right_that_goes_are_told_apart() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants.world.sql("ALTER TABLE t DISABLE ROW LEVEL SECURITY").await;
    let daemon = tenants.world.daemon(&tenants.config(""));
    let rows = async |count| {
        let there = async || tenants.world.number("SELECT count(*) FROM t").await == count;
        tidegate_harness::eventually_async("the rows come", PATIENCE, there).await.expect("they come");
    };
    tenants.produce(&RECORDS[..1]);
    rows(1).await;
    // From now on COPY is refused, but INSERT isn't.
    tenants.world.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
    tenants.produce(&RECORDS[1..]);
    rows(3).await;
    assert_eq!(tenants.refused().await, BY_POLICY);
    tenants.world.sql(&format!("REVOKE INSERT ON t FROM {}", tenants.role)).await;
    tenants.produce(&RECORDS[..1]);
    daemon.await_log("permission denied for table t", PATIENCE).expect("the right is named");
    assert_eq!(tenants.refused().await, BY_POLICY, "no record is blamed for a missing right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_asks_a_setting_or_fails_by_itself_judges_each_row() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants
        .world
        .sql(
            "DROP POLICY own ON t; CREATE POLICY ours ON t WITH CHECK (tenant = current_setting('app.tenant'));
              CREATE POLICY odd ON t AS RESTRICTIVE WITH CHECK (100 / coalesce(v, 1) > 0)",
        )
        .await;
    tenants.produce(&[
        r#"{"id":1,"tenant":"a","v":1}"#,
        r#"{"id":2,"tenant":"b","v":1}"#,
        r#"{"id":3,"tenant":"a","v":0}"#,
        r#"{"id":4,"tenant":"a","v":200}"#,
        r#"{"id":5,"tenant":"a"}"#,
    ]);
    let config = tenants.config("").replacen("[http]", "session.\"app.tenant\" = \"a\"\n[http]", 1);
    let (code, log) = tenants.world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(tenants.rows().await, "1:a:1,5:a");
    let refused = tenants.refused().await;
    let codes: Vec<_> = refused.split(',').map(|letter| letter.rsplitn(2, ":").last().unwrap_or_default()).collect();
    assert_eq!(codes.len(), 3, "{refused}");
    assert!(
        refused.contains("1:42501") && refused.contains("2:22012") && refused.contains("policy \"odd\""),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_asks_a_table_without_a_right_to_it_stops_by_name_and_check_says_so() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants
        .world
        .sql(
            "CREATE TABLE tenants (name text); DROP POLICY own ON t;
              CREATE POLICY known ON t WITH CHECK (EXISTS (SELECT FROM tenants WHERE name = tenant))",
        )
        .await;
    tenants.produce(&RECORDS);
    let config = tenants.config("");
    let ran = tidegate(&config, &["check"]);
    assert!(ran.code != 0 && ran.out.contains("permission denied for table tenants"), "{ran}");
    let (code, log) = tenants.world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("permission denied for table tenants"), "{log}");
    assert_eq!(tenants.refused().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_a_policy_refused_is_replayed_once_the_policy_takes_it() {
    let tenants = Tenants::new("(id int, tenant text, v int)", "INSERT").await;
    tenants.produce(&RECORDS);
    tenants.drained("");
    let config = tenants.config("");
    tidegate(&config, &["dead-letters", "replay", "--all"])
        .fails(70, &["0 dead letters replayed (0 rows), 1 failed again"]);
    tenants.world.sql("CREATE POLICY more ON t WITH CHECK (tenant = 'b')").await;
    tidegate(&config, &["dead-letters", "replay", "--all"]).ok().says(&["1 dead letter replayed (1 row)"]);
    assert_eq!(tenants.rows().await, "1:a,2:b,3:a,4:a:9");
}
