//! All records arrive, once and unchanged.

use std::time::Instant;

use tidegate_harness::Record;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_kafka_is_in_postgres_after_a_drain() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE rides (id bigint, name text, lat float8)").await;
    world.produce(
        (0..10_000).map(|n: i32| Record::new(format!(r#"{{"id":{n},"name":"vehicle {n}","lat":52.5}}"#)).to(n % 2)),
    );
    let started = Instant::now();
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    // The checks of the packages (`deploy/debian/installed.sh`) print this line.
    println!("10,000 rows {:?} after the daemon was started", started.elapsed());
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 10_000);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides WHERE name = 'vehicle ' || id").await, 10_000);
    assert_eq!(world.number("SELECT sum(next_offset)::int8 FROM tidegate.ledger").await, 10_000);
}
