//! Daemons of an older and of the current version run in one group, with one ledger. Under load, two daemons of the older version
//! are replaced by current ones, one after the other. Then they are replaced back.

use tidegate_harness::{Daemon, DaemonSpec};

use crate::accounting::NUMBERED;
use crate::support::{PATIENCE, World, program};

const RECORDS: i32 = 600_000;
const PARTITIONS: i32 = 6;
/// The ledger advances by this number of records between two steps. So each pair of versions runs together for a while.
const STEP: i64 = 30_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an older daemon: `make upgrade-check` builds one and runs this"]
async fn rolled_forward_and_back_under_load_nothing_is_lost_and_nothing_is_twice() {
    let old = std::env::var("TIDEGATE_OLD_PROGRAM").expect("the path of the older daemon");
    let world = World::new(PARTITIONS).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..RECORDS, PARTITIONS);
    let pipeline = "table.name = \"rides\"\nconsumers = 2\nbatch.max_rows = 2000\nflow.max_rows_per_second = 15_000";
    let new = program();
    let start = |program: &std::path::Path| {
        let config = world.config(pipeline);
        let (_, listen) = config.split_once("listen = \"").expect("the configuration says where to listen");
        let address = listen.split('"').next().expect("the address ends").to_owned();
        Daemon::spawn(&DaemonSpec::new(program, config).http_address(address)).expect("the daemon starts")
    };
    let mut daemons = [start(old.as_ref()), start(old.as_ref())];
    let rolls = [(0, new.as_path()), (1, new.as_path()), (0, old.as_ref()), (1, old.as_ref())];
    for (step, (index, program)) in rolls.into_iter().enumerate() {
        let at = world.ledger().await;
        world.await_ledger(&daemons[1 - index], at + STEP).await;
        daemons[index].terminate().expect("the daemon gets the signal");
        let status = daemons[index].wait_exit(PATIENCE).expect("the daemon ends");
        assert!(status.success(), "step {step}: {}", daemons[index].log_tail());
        daemons[index] = start(program);
        daemons[index].await_ready(PATIENCE).expect("it takes its share");
        let at = world.ledger().await;
        assert!(at < i64::from(RECORDS), "step {step}: the load ended before the roll did");
        world.await_ledger(&daemons[index], at + STEP).await;
    }
    world.await_written(&daemons[0]).await;
    world.assert_exact(i64::from(RECORDS)).await;
    for daemon in &daemons {
        assert!(daemon.exit_status().is_none(), "no daemon ended by itself: {}", daemon.log_tail());
    }
}
