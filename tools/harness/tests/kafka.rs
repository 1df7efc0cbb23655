//! Checks that brokers serve, and still have their records, after a kill, a pause or a restart. The tests use a single broker, a
//! broker with ZooKeeper, and a cluster of three brokers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tidegate_harness::{Kafka, KafkaSpec, Record};

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = Record> {
    range.map(|number| Record::new(number.to_string()).to(0))
}

#[test]
fn a_cluster_serves_on_while_one_broker_is_down() {
    let kafka = Kafka::start(&KafkaSpec::cluster()).unwrap();
    kafka.create_topic("t", 1, &[]).unwrap();
    kafka.produce("t", numbers(0..100)).unwrap();
    kafka.kill(1).unwrap();
    kafka.produce("t", numbers(100..200)).unwrap();
    kafka.start_again(1).unwrap();
    kafka.restart(0).unwrap();
    kafka.produce("t", numbers(200..300)).unwrap();
    assert_eq!(kafka.end_offsets("t").unwrap(), [300]);
}

#[test]
fn a_broker_with_zookeeper_keeps_its_records_over_a_kill() {
    let kafka = Kafka::start(&KafkaSpec::zookeeper()).unwrap();
    kafka.create_topic("t", 1, &[]).unwrap();
    kafka.produce("t", numbers(0..100)).unwrap();
    kafka.kill(0).unwrap();
    kafka.start_again(0).unwrap();
    kafka.produce("t", numbers(100..200)).unwrap();
    assert_eq!(kafka.end_offsets("t").unwrap(), [200]);
}

#[test]
fn a_client_that_connects_to_a_proxy_stays_behind_it() {
    let (kafka, proxies) = Kafka::start_behind_proxies(&KafkaSpec::single()).unwrap();
    kafka.create_topic("t", 1, &[]).unwrap();
    kafka.produce("t", numbers(0..100)).unwrap();
    let address = proxies[0].addr().to_string();
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    let deadline = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(None, deadline).unwrap();
    assert_eq!(i32::from(proxies[0].addr().port()), metadata.brokers()[0].port());
    assert_eq!(consumer.fetch_watermarks("t", 0, deadline).unwrap(), (0, 100));

    proxies[0].hold(true);
    assert!(consumer.fetch_watermarks("t", 0, Duration::from_millis(500)).is_err());
    // The harness itself connects without the proxy.
    assert_eq!(kafka.end_offsets("t").unwrap(), [100]);
    proxies[0].hold(false);
    assert_eq!(consumer.fetch_watermarks("t", 0, deadline).unwrap(), (0, 100));
}

#[test]
fn a_paused_broker_answers_once_it_is_resumed() {
    let kafka = Kafka::start(&KafkaSpec::single()).unwrap();
    kafka.create_topic("t", 1, &[]).unwrap();
    kafka.pause(0).unwrap();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| kafka.produce("t", numbers(0..100)).unwrap());
        assert!(!producing.is_finished());
        kafka.resume(0).unwrap();
        assert_eq!(producing.join().unwrap(), 100);
    });
}
