//! Gives consumers back the names that they lost. A consumer that lost its name joins the group without one. It joins again under
//! its name once no other member has the name.

use std::sync::Arc;
use std::time::Duration;

use tidegate_protocol::poll_loop::Message;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::kafka::membership::Membership;
use crate::kafka::observer::SharedObserver;
use crate::status::ConsumerStatus;

/// The time between two checks of the consumers that lost their names. If one of them has waited long enough, Kafka is asked
/// which names are in use.
const LOOK: Duration = Duration::from_secs(5);
const NAME_FREE: &str = "its name in the group is free";

/// If one of these consumers has lost its name in the group (`group.instance.id`), tells it to join again once the name
/// is free. Runs until the future is dropped.
///
/// # Cancel safety
/// May be dropped at any point.
pub(super) async fn keep(
    pipeline: Arc<str>,
    group: String,
    observer: SharedObserver,
    members: Vec<(Membership, Arc<ConsumerStatus>)>,
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !members.iter().any(|(member, _)| member.is_wanted()) {
            continue;
        }
        let asked = group.clone();
        let taken = match observer.ask(move |observer| observer.named_members(&asked)).await {
            Ok(taken) => taken,
            Err(error) => {
                debug!(pipeline = &*pipeline, %error, "can't ask for the members of the group");
                continue;
            }
        };
        for (member, status) in members.iter().filter(|(member, _)| member.is_wanted() && !taken.contains(&member.id)) {
            // If the consumer's inbox is full, try again at the next tick.
            let Some(place) = status.inbox_place() else { continue };
            info!(
                pipeline = &*pipeline,
                consumer = status.number,
                name = member.id,
                "the name is free: joining again under it"
            );
            member.take_back();
            place.send(Message::Rebuild(NAME_FREE));
        }
    }
}
