//! The producer with a real Kafka. Kafka must have exactly the records that the producer reports.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet::{DeliverySpec, FleetSpec, Limit, Partitioning, ProduceError, ProduceSpec, WhenFull, create_topic, produce};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;
use tidegate_harness::{Kafka, KafkaSpec, shared, unique_name};

fn topic(kafka: &Kafka, partitions: u16) -> String {
    let topic = unique_name("fleet");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let made = runtime.block_on(create_topic(kafka.bootstrap_servers(), &topic, partitions)).expect("created");
    assert!(made);
    assert!(!runtime.block_on(create_topic(kafka.bootstrap_servers(), &topic, partitions)).expect("exists"));
    topic
}

fn spec(kafka: &Kafka, topic: &str) -> ProduceSpec {
    ProduceSpec {
        fleet: FleetSpec { vehicles: 500, ..FleetSpec::default() },
        keep_truth: true,
        ..ProduceSpec::new(kafka.bootstrap_servers(), topic)
    }
}

/// Reads a whole topic: partition, timestamp, key and value of each record.
fn read(kafka: &Kafka, topic: &str) -> Vec<(i32, i64, String, Value)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap_servers())
        .set("group.id", unique_name("reader"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let ends = kafka.end_offsets(topic).expect("offsets");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(ends.len()).expect("few") {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("valid");
    }
    consumer.assign(&assignment).expect("assigned");
    let mut records = Vec::new();
    while (records.len() as i64) < ends.iter().sum() {
        let record = consumer.poll(Duration::from_secs(20)).expect("another record").expect("readable");
        let key = String::from_utf8_lossy(record.key().expect("a key")).into_owned();
        let value = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
        records.push((record.partition(), record.timestamp().to_millis().expect("a time"), key, value));
    }
    records
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since_epoch.as_millis()).expect("before the sun's end")
}

#[test]
fn kafka_has_what_the_truth_says() {
    let kafka = shared::kafka().expect("a broker");
    let topic = topic(kafka, 2);
    let begun = now_ms();
    let spec = ProduceSpec {
        rate: 0.0,
        delivery: DeliverySpec { late: 0.05, repeat: 0.05 },
        limit: Limit { records: Some(50_000), seconds: None },
        ..spec(kafka, &topic)
    };
    let outcome = produce(&spec, &AtomicBool::new(false), |_| {}).expect("produced");
    let (summary, truth) = (outcome.summary, outcome.truth.expect("kept"));
    assert_eq!((summary.intended, summary.sent, summary.acked), (50_000, 50_000, 50_000), "{summary}");
    assert_eq!((summary.failed, summary.unacked, summary.interrupted), (0, 0, false));
    assert_eq!((truth.sent(), truth.distinct()), (50_000, 50_000 - summary.repeated));
    let records = read(kafka, &topic);
    assert_eq!(records.len(), 50_000);
    for (partition, truth) in (0..).zip(truth.partitions()) {
        assert_eq!(records.iter().filter(|record| record.0 == partition).count() as u64, truth.sent);
    }
    let mut readings = HashSet::new();
    for (partition, at, key, value) in &records {
        assert_eq!((*partition, key), (i32::from(value["region"] == "south"), &value["vehicle_id"].to_string()));
        assert!((begun - 1..=now_ms()).contains(at));
        readings.insert((key, value["seq"].as_u64()));
    }
    assert_eq!(readings.len() as u64, truth.distinct());
}

#[test]
fn a_rate_is_kept_and_shown() {
    let kafka = shared::kafka().expect("a broker");
    let topic = topic(kafka, 3);
    let spec = ProduceSpec {
        rate: 2_000.0,
        profile: "burst:4:1:1".parse().expect("valid"),
        limit: Limit { records: None, seconds: Some(3.0) },
        partitioning: "vehicle:3".parse().expect("valid"),
        ..spec(kafka, &topic)
    };
    let mut shown = Vec::new();
    let outcome = produce(&spec, &AtomicBool::new(false), |progress| shown.push(progress.clone()));
    let summary = outcome.expect("produced").summary;
    assert_eq!((summary.intended, summary.acked), (12_000, 12_000), "{summary}");
    assert!((2.9..8.0).contains(&summary.seconds), "{summary}");
    assert!(summary.send_delay_ms.expect("a rate").p50 < 100.0, "{summary}");
    assert!(summary.ack_delay_ms.expect("acks").p50 > 0.0, "{summary}");
    assert!(shown.len() >= 4, "{shown:?}");
    assert!(shown.iter().all(|progress| progress.intended + 200 >= progress.sent), "{shown:?}");
}

#[test]
fn in_real_time_a_reading_is_sent_when_it_is_measured() {
    let kafka = shared::kafka().expect("a broker");
    let topic = topic(kafka, 2);
    let spec = ProduceSpec {
        start_now: true,
        rate: 500.0,
        profile: "rush-hour:1:2".parse().expect("valid"),
        limit: Limit { records: None, seconds: Some(2.0) },
        ..spec(kafka, &topic)
    };
    let mut shown = Vec::new();
    let outcome = produce(&spec, &AtomicBool::new(false), |progress| shown.push(progress.clone())).expect("produced");
    let most = outcome.summary.send_delay_ms.expect("a rate").max;
    for (_, sent_ms, _, value) in read(kafka, &topic) {
        let ts: jiff::Timestamp = value["ts"].as_str().expect("ts").parse().expect("RFC 3339");
        let behind = sent_ms - ts.as_millisecond();
        assert!((-2..=2).contains(&behind) || (behind as f64) < most + 5.0, "{behind} ms of at most {most}");
    }
    assert!(shown.iter().all(|progress| progress.intended_per_second == Some(500.0)), "{shown:?}");
    assert!(shown[0].to_string().contains("/s of 500/s"), "{}", shown[0]);
}

#[test]
fn the_schedule_does_not_wait_for_kafka() {
    let kafka = Kafka::start(&KafkaSpec::single()).expect("a broker of its own");
    let topic = topic(&kafka, 2);
    let spec = ProduceSpec {
        rate: 10_000.0,
        limit: Limit { records: None, seconds: Some(4.0) },
        queue_kib: 512,
        when_full: WhenFull::Refuse,
        delivery: DeliverySpec { late: 0.0, repeat: 0.1 },
        ..spec(&kafka, &topic)
    };
    let outcome = thread::scope(|scope| {
        let run = scope.spawn(|| produce(&spec, &AtomicBool::new(false), |_| {}));
        thread::sleep(Duration::from_secs(1));
        kafka.pause(0).expect("paused");
        thread::sleep(Duration::from_secs(2));
        kafka.resume(0).expect("resumed");
        run.join().expect("no panic").expect("produced")
    });
    let (summary, truth) = (outcome.summary, outcome.truth.expect("kept"));
    assert_eq!(summary.intended, 40_000, "{summary}");
    assert_eq!(summary.sent + summary.refused, 40_000, "{summary}");
    assert!(summary.refused > 1_000, "{summary}");
    assert_eq!((summary.acked, summary.unacked, summary.failed), (summary.sent, 0, summary.refused), "{summary}");
    assert!(summary.send_delay_ms.expect("a rate").p99 < 1_000.0, "{summary}");
    assert!(summary.ack_delay_ms.expect("acks").max > 1_000.0, "{summary}");
    let records = read(&kafka, &topic);
    let readings: HashSet<_> =
        records.iter().map(|(.., value)| value["vehicle_id"].as_u64().zip(value["seq"].as_u64())).collect();
    assert_eq!((records.len() as u64, readings.len() as u64), (truth.sent(), truth.distinct()));
}

#[test]
fn stopped_it_ends_with_all_acknowledged() {
    let kafka = shared::kafka().expect("a broker");
    let topic = topic(kafka, 2);
    let spec = spec(kafka, &topic);
    let stop = AtomicBool::new(false);
    let outcome = produce(&spec, &stop, |_| stop.store(true, Ordering::Relaxed)).expect("produced");
    let (summary, truth) = (outcome.summary, outcome.truth.expect("kept"));
    assert!(summary.interrupted && summary.acked > 0, "{summary}");
    assert_eq!((summary.acked, truth.sent()), (summary.sent, summary.sent), "{summary}");
    assert_eq!(kafka.end_offsets(&topic).expect("offsets").iter().sum::<i64>().unsigned_abs(), summary.sent);
}

#[test]
fn too_few_partitions_are_refused_before_the_first_record() {
    let kafka = shared::kafka().expect("a broker");
    let topic = topic(kafka, 1);
    let refused = produce(&spec(kafka, &topic), &AtomicBool::new(false), |_| {});
    assert!(matches!(refused, Err(ProduceError::Partitions { found: 1, needed: 2, .. })), "{refused:?}");
    assert_eq!(Partitioning::ByRegion.count(), 2);
}
