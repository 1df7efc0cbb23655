//! `flow.max_rows_per_second` on real servers. A busy machine may make the flow slower than the limit, but never faster. Unit
//! tests with a simulated time show that the limit is exact.

use crate::accounting::await_metric;
use crate::support::World;

const RATE: i64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_limit_is_kept_and_smooth_and_said() {
    let world = World::new(4).await;
    world.sql("CREATE TABLE rides (id bigint, at timestamptz NOT NULL DEFAULT clock_timestamp())").await;
    world.rides(0, 60_000, 4);
    let pipeline = format!(
        "consumers = 2\nbatch = {{ max_age = \"100ms\" }}\nflow.max_rows_per_second = {RATE}\ntable.name = \"rides\"\n\
         [pipelines.{}.columns]\nid = \"id\"",
        world.name
    );
    let daemon = world.daemon(&world.config(&pipeline));
    await_metric(&daemon, "tidegate_rows_written_total", (13 * RATE) as f64);
    let status = daemon.status_json().expect("it answers");
    let view = &status["pipelines"][0];
    assert_eq!(
        (&view["flow_limit_per_second"], &view["state_words"]),
        (&RATE.into(), &"held by flow".into()),
        "{view}"
    );
    assert_eq!(daemon.metric("tidegate_flow_max_rows_per_second", &[]), Some(RATE as f64));
    let held = daemon.metric("tidegate_cycle_seconds_total", &[("phase", "flow")]).unwrap_or(0.0);
    assert!(held > 5.0, "two consumers were held for {held} s");
    let in_window = |from: i64, seconds: i64| {
        format!(
            "SELECT count(*) FROM rides, (SELECT min(at) AS begun FROM rides) AS first
             WHERE at >= begun + interval '{from} seconds' AND at < begun + interval '{} seconds'",
            from + seconds
        )
    };
    let over_ten = world.number(&in_window(1, 10)).await;
    let mut each = Vec::new();
    for second in 1..11 {
        each.push(world.number(&in_window(second, 1)).await);
    }
    println!("{over_ten} rows in ten seconds at {RATE} a second; by second {each:?}");
    assert!(over_ten <= 10 * RATE * 102 / 100, "{over_ten} rows in ten seconds");
    assert!(over_ten >= 10 * RATE * 90 / 100, "{over_ten} rows in ten seconds: {each:?}");
    // The records of a tenth of a second are written at once. They may belong to the second before or after.
    assert!(each.iter().all(|rows| *rows <= RATE * 130 / 100), "{each:?}");
}
