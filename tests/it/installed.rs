//! Measures the time from the installation of the daemon to the first row. The checks in `deploy` run this test.
//! `TIDEGATE_INSTALL` is the path of a program that installs the daemon on an empty Debian.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::accounting::NUMBERED;
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an empty Debian: `make deb-check`, `make image-check` and `make install-check` run this"]
async fn the_first_row_after_an_installation() {
    let install = std::env::var_os("TIDEGATE_INSTALL").expect("the path of the program that installs");
    // The servers run, and the record is in Kafka, before the clock starts.
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..1, 1);
    let step = |name: &str| {
        let started = Instant::now();
        let status = Command::new(&install).arg(name).status().expect("the program runs");
        assert!(status.success(), "{name}: {status}");
        started.elapsed()
    };
    let downloaded = step("download");
    let installed = step("install");
    let started = Instant::now();
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    world.await_ledger(&daemon, 1).await;
    let written = started.elapsed();
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    println!(
        "first row: download {}, install {}, start to first row {}, in all {}",
        seconds(downloaded),
        seconds(installed),
        seconds(written),
        seconds(downloaded + installed + written)
    );
    world.assert_exact(1).await;
}
