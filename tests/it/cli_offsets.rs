//! `tidegate lag` and `tidegate offsets`: show the ledger's offsets, and change them without a race.

use tidegate_harness::{Record, eventually_async};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE rides (id bigint)";
const TO_RIDES: &str = "table.name = \"rides\"";

impl World {
    /// Produces `count` records, numbered from `first`, to the partitions in turn.
    pub(crate) fn rides(&self, first: i64, count: i64, partitions: i64) {
        self.produce((first..first + count).map(|n| {
            let partition = i32::try_from(n % partitions).expect("a small number");
            Record::new(format!(r#"{{"id":{n}}}"#)).to(partition)
        }));
    }

    pub(crate) fn drained(&self, config: &str) {
        let (code, log) = self.drain(config);
        assert_eq!(code, Some(0), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_shows_each_partition_against_the_log_without_a_daemon() {
    let mut world = World::new(2).await;
    world.topic = tidegate_harness::unique_name("kept_a_day");
    world.kafka.create_topic(&world.topic, 2, &[("retention.ms", "86400000")]).expect("the topic is made");
    world.sql(TABLE).await;
    let config = world.config(TO_RIDES);
    tidegate(&config, &["lag"]).fails(64, &["was never started on this database", "tidegate run"]);
    world.rides(0, 100, 2);
    world.drained(&config);
    world.rides(100, 30, 1);
    let lag = tidegate(&config, &["lag", "--json"]).ok().json();
    let pipeline = &lag["pipelines"][0];
    assert_eq!(pipeline["lag_records"], 30, "{lag}");
    let first = &pipeline["partitions"][0];
    assert_eq!(
        (&first["position"], &first["end"], &first["low"], &first["lag_records"]),
        (&50.into(), &80.into(), &0.into(), &30.into())
    );
    assert!(first["retention_headroom_seconds"].as_f64().is_some_and(|seconds| seconds > 3600.0), "{first}");
    assert_eq!(pipeline["partitions"][1]["lag_records"], 0);
    tidegate(&config, &["lag"]).ok().says(&["30 records behind", "headroom", "/c0"]);
    // The output names a pipeline that was never started, and still shows the others.
    let both = format!("{config}[pipelines.never]\ntopics = [\"{}\"]\ntable.name = \"others\"\n", world.topic);
    for (command, shown) in [
        (&["lag"][..], "30 records behind"),
        (&["verify"], "the table was not compared with the ledger"),
        (&["offsets", "show"], "next offset"),
    ] {
        tidegate(&both, command).fails(64, &["`never` was never started on this database"]).says(&[shown]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_forward_skips_and_one_set_back_is_read_again() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint PRIMARY KEY)").await;
    let config = world.config("table = { name = \"rides\", mode = \"insert_new\", key = [\"id\"] }");
    world.rides(0, 10, 1);
    world.drained(&config);
    world.rides(10, 10, 1);
    let set = tidegate(&config, &["offsets", "set", "--offset", "15"]).ok();
    set.says(&["10", "15", "up to 5 records will not be read"]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 15);
    let set = tidegate(&config, &["offsets", "set", "--offset", "earliest", "--partition", "0", "--json"]).ok().json();
    assert_eq!(
        (&set["moved"][0]["from"], &set["moved"][0]["to"], &set["moved"][0]["read_again"]),
        (&20.into(), &0.into(), &20.into())
    );
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 20);
    tidegate(&config, &["offsets", "set", "--offset", "2000-01-01T00:00:00Z", "--json"]).ok().says(&["\"to\": 0"]);
    tidegate(&config, &["offsets", "show"]).ok().says(&["tidegate offsets set", &world.topic]);
    // Only offsets that the log has can be read again.
    world.sql("UPDATE tidegate.ledger SET next_offset = 8746").await;
    tidegate(&config, &["offsets", "set", "--offset", "5"]).ok().says(&["up to 15 records will be read again"]);
    tidegate(&config, &["offsets", "set", "--offset", "2999-01-01T00:00:00Z"])
        .fails(64, &["--offset: 2999-01-01T00:00:00", "is in the future"]);
    let help = tidegate(&config, &["offsets", "set", "--help"]).ok();
    assert!(help.out.contains("only one") && !help.out.contains("all pipelines"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_offset_is_rejected_and_nothing_changes() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    let config = world.config(TO_RIDES);
    world.rides(0, 20, 2);
    world.drained(&config);
    let set = |arguments: &[&str]| tidegate(&config, &[&["offsets", "set"][..], arguments].concat());
    set(&["--offset", "11", "--partition", "1"]).fails(64, &["outside of the log", "0 up to 10"]);
    set(&["--offset", "5", "--partition", "2"]).fails(64, &["has no partition 2"]);
    set(&["--offset", "5", "--topic", "other"]).fails(64, &["reads no topic `other`", &world.topic]);
    set(&["--offset", "soon"]).fails(64, &["earliest, latest or a time"]);
    // Mode append would write the rows twice.
    set(&["--offset", "earliest"]).fails(64, &["20 records would be read again", "twice", "--yes"]);
    assert_eq!(world.number("SELECT sum(next_offset)::int8 FROM tidegate.ledger").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_set_restores_a_lost_ledger_row() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let config = world.config(TO_RIDES);
    world.rides(0, 10, 1);
    world.drained(&config);
    world.sql("DELETE FROM tidegate.ledger").await;
    world.rides(10, 5, 1);
    let (code, log) = world.drain(&config);
    assert!(code == Some(70) && log.contains("ledger lost"), "{code:?} {log}");
    tidegate(&config, &["offsets", "set", "--offset", "10"]).ok().says(&["the ledger had no row"]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_is_fenced_by_offsets_set_and_goes_on_from_there() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let config = world.config(TO_RIDES);
    let config = config.replace("[http]", "lock_timeout = \"500ms\"\n[limits]\nclaim_grace = \"1s\"\n[http]");
    world.rides(0, 100, 1);
    let daemon = world.daemon(&config);
    let rows = async |count: i64| {
        let wait = eventually_async("the rows are there", PATIENCE, async || {
            world.number("SELECT count(*) FROM rides").await >= count
        });
        wait.await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_tail()));
    };
    rows(100).await;
    tidegate(&config, &["offsets", "set", "--offset", "earliest"]).fails(64, &["is running", "--yes"]);
    world.sql("DELETE FROM rides").await;
    tidegate(&config, &["offsets", "set", "--offset", "earliest", "--yes"]).ok();
    world.rides(100, 1, 1);
    rows(101).await;
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides").await, 101);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 101);
    daemon.await_log("another claim holds the partition", PATIENCE).expect("the daemon says that it was fenced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_pipeline_takes_over_positions_and_dead_letters() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    let old = world.config(TO_RIDES);
    let renamed = tidegate_harness::unique_name("renamed");
    let new = old.replace(&world.name, &renamed);
    world.rides(0, 50, 2);
    world.produce([Record::new("{").to(0)]);
    world.drained(&old);
    world.rides(50, 50, 2);
    let (code, log) = world.drain(&new);
    assert!(code == Some(70) && log.contains(&format!("offsets copy {} {renamed}", world.name)), "{code:?} {log}");
    tidegate(&new, &["offsets", "copy", "nobody", &renamed]).fails(64, &["`nobody` was never started"]);
    tidegate(&new, &["offsets", "copy", &world.name, "nobody"]).fails(64, &["no pipeline `nobody`", &renamed]);
    let copied = tidegate(&new, &["offsets", "copy", &world.name, &renamed]).ok();
    copied.says(&["2 partitions and 1 dead letter copied", "no longer registered"]);
    world.drained(&new);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 100);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides").await, 100);
    // The pipeline with the old name can't write to the table again.
    let (code, log) = world.drain(&old);
    assert!(code == Some(70) && log.contains("would have every record twice"), "{code:?} {log}");
}
