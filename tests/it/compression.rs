//! Every compression that Kafka has. The checks of the packages (`deploy/debian/installed.sh`) run this test too, because
//! a build may lack a codec and still start.

use tidegate_harness::unique_name;

use crate::accounting::NUMBERED;
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn each_compression_drains() {
    let mut world = World::new(1).await;
    for codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        world.topic = unique_name(codec);
        world.name = unique_name("rides");
        world.sql(&format!("DROP TABLE IF EXISTS rides; DROP SCHEMA IF EXISTS tidegate CASCADE; {NUMBERED}")).await;
        world.kafka.create_topic(&world.topic, 2, &[("compression.type", codec)]).expect("the topic is made");
        world.produce_numbered(0..5_000, 2);
        let (code, log) = world.drain(&world.config("table.name = \"rides\""));
        assert_eq!(code, Some(0), "{codec}: {log}");
        world.assert_exact(5_000).await;
    }
}
