//! A short campaign. Its seed is fixed, so the faults always come in the same order.

use std::path::Path;
use std::process::Command;

#[test]
fn a_short_campaign_of_faults_loses_nothing_and_writes_nothing_twice() {
    let chaos = env!("CARGO_BIN_EXE_chaos");
    let daemon = Path::new(chaos).with_file_name("tidegate");
    assert!(daemon.exists(), "{} is not built: run the tests of the whole workspace", daemon.display());
    let mut campaign = Command::new(chaos);
    // The limit for the recovery is high here, because other tests run at the same time.
    campaign.env("MINUTES", "1.5").env("SEED", "7").env("RECOVERY", "15");
    let status = campaign.status().expect("the campaign starts");
    assert!(status.success(), "the campaign ended with {status}; see target/chaos");
}
