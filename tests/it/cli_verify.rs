//! `tidegate verify` reports the numbers of missing and duplicate rows. An offset without a record is not missing: it may be that
//! of a transaction marker.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;

const RIDES: &str = "CREATE TABLE rides (id bigint, part int, off bigint)";

impl World {
    fn placed(&self) -> String {
        self.config(&format!(
            "table.name = \"rides\"\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\nid = \"id\"\npart = {{ meta = \"partition\" }}\noff = {{ meta = \"offset\" }}",
            self.name
        ))
    }

    pub(crate) fn transaction(&self, count: i32, commit: bool) {
        transaction(self.kafka.bootstrap_servers(), &self.topic, count, commit);
    }
}

pub(crate) fn transaction(bootstrap_servers: &str, topic: &str, count: i32, commit: bool) {
    transaction_into(bootstrap_servers, topic, (0..count).map(|n| (0, n)), commit);
}

/// Produces records in one transaction, which is committed or aborted. Each record consists of its partition and its id.
pub(crate) fn transaction_into(
    bootstrap_servers: &str,
    topic: &str,
    records: impl Iterator<Item = (i32, i32)>,
    commit: bool,
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("transactional.id", topic)
        .create()
        .expect("a producer");
    let deadline = Duration::from_secs(30);
    producer.init_transactions(deadline).expect("transactions");
    producer.begin_transaction().expect("a transaction");
    for (partition, n) in records {
        let payload = format!(r#"{{"id":{n}}}"#);
        let record: BaseRecord<'_, (), str> = BaseRecord::to(topic).partition(partition).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(deadline).expect("delivered");
    let ended = if commit { producer.commit_transaction(deadline) } else { producer.abort_transaction(deadline) };
    ended.expect("the transaction ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_topic_verifies_with_its_dead_letters_and_its_gaps() {
    let world = World::new(2).await;
    world.sql(RIDES).await;
    let config = world.placed();
    world.rides(0, 100, 2);
    world.produce([Record::new("{").to(1)]);
    world.transaction(10, true);
    world.transaction(5, false);
    world.rides(100, 10, 2);
    world.drained(&config);
    let report = tidegate(&config, &["verify", "--json"]).ok().json();
    let (first, second) = (&report["pipelines"][0]["partitions"][0], &report["pipelines"][0]["partitions"][1]);
    // The position counts 50 + 10 records, the transaction marker, 5 aborted records and their marker, and 5 records.
    assert_eq!(
        (&first["position"], &first["rows"], &first["missing"], &first["twice"]),
        (&72.into(), &65.into(), &0.into(), &0.into()),
        "{first}"
    );
    assert_eq!(
        (&second["rows"], &second["dead_letters"], &second["missing"]),
        (&55.into(), &1.into(), &0.into()),
        "{second}"
    );
    assert_eq!(first["last_record"], "known again");
    tidegate(&config, &["verify"]).ok().says(&["found no missing and no repeated records", "the ledger's"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_twice_or_from_beyond_are_counted_by_partition() {
    let world = World::new(2).await;
    world.sql(RIDES).await;
    let config = world.placed();
    world.rides(0, 200, 2);
    world.transaction(3, true);
    world.rides(200, 2, 2);
    world.drained(&config);
    world.sql("DELETE FROM rides WHERE part = 0 AND off IN (0, 7, 8, 99); INSERT INTO rides SELECT * FROM rides WHERE part = 1 AND off < 5; INSERT INTO rides VALUES (1, 1, 101)").await;
    let ran = tidegate(&config, &["verify", "--json"]);
    let (json, ran) = (ran.json(), ran);
    let topic = &world.topic;
    ran.fails(
        70,
        &[
            &format!("{topic}/0: 4 records are missing"),
            "`tidegate replay --into` another table shows them",
            &format!("{topic}/1: 5 records are in `public.rides`"),
            "1 row is of",
        ],
    );
    let partitions = &json["pipelines"][0]["partitions"];
    assert_eq!((&partitions[0]["missing"], &partitions[0]["twice"]), (&4.into(), &0.into()), "{partitions}");
    assert_eq!(
        (&partitions[1]["missing"], &partitions[1]["twice"], &partitions[1]["beyond"]),
        (&0.into(), &5.into(), &1.into()),
        "{partitions}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_deleted_is_unknown_and_not_missing() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.placed();
    world.rides(0, 100, 1);
    world.drained(&config);
    world.sql("DELETE FROM rides WHERE off < 10 OR off = 90").await;
    world.kafka.delete_records(&world.topic, 0, 50).expect("records are deleted");
    let ran = tidegate(&config, &["verify", "--json"]);
    let partition = &ran.json()["pipelines"][0]["partitions"][0];
    assert_eq!((&partition["missing"], &partition["unknown"]), (&1.into(), &10.into()), "{partition}");
    ran.fails(70, &["1 record is missing"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_began_late_misses_nothing_from_before() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.placed().replace("dead_letters.", "start = \"latest\"\ndead_letters.");
    world.rides(0, 50, 1);
    world.drained(&config);
    world.rides(50, 50, 1);
    world.drained(&config);
    let report = tidegate(&config, &["verify", "--json"]).ok().json();
    let partition = &report["pipelines"][0]["partitions"][0];
    assert_eq!(
        (&partition["first"], &partition["rows"], &partition["missing"]),
        (&50.into(), &50.into(), &0.into()),
        "{partition}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_differs_from_the_ledger_is_a_fault() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let config = world.config("table.name = \"rides\"");
    world.rides(0, 10, 1);
    world.drained(&config);
    tidegate(&config, &["verify"]).ok().says(&["the ledger's", "the table was not compared with the ledger"]);
    world.sql("UPDATE tidegate.ledger SET last_digest = last_digest + 1").await;
    tidegate(&config, &["verify"]).fails(70, &["log was replaced: the record at offset 9"]);
    world.sql("UPDATE tidegate.ledger SET next_offset = 1000").await;
    tidegate(&config, &["verify"]).fails(70, &["log ends before the ledger's position"]);
    world.kafka.delete_records(&world.topic, 0, 10).expect("records are deleted");
    world.sql("UPDATE tidegate.ledger SET next_offset = 5").await;
    tidegate(&config, &["verify"]).fails(70, &["Kafka deleted records before they were written", "5 are lost"]);
}
