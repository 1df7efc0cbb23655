//! Static membership: names by which this daemon's consumers keep their partitions in a group across a restart.
//!
//! If a member without a name dies, it keeps its partitions until its session times out. If a member of a classic group has a
//! name (`group.instance.id`) and starts again within that time, it gets its old partitions back at once. The ledger's claims
//! fence writes that the dead process may still have in flight. For KIP-848, see [`InstanceName::member`].
//!
//! A name belongs to one member at a time. When another member joins a classic group with the name, the broker ends the
//! previous member's session. Under KIP-848, the broker refuses the other member instead. See [`Membership::lost`] for what
//! this means for two daemons with one name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, GroupProtocol, Pipeline, Topics};
use crate::status::lock;

/// If Kafka was unavailable within this time before a member lost its name, the member may have lost the name to its own earlier
/// session: see [`Membership::lost`].
pub const TROUBLED_WITHIN: Duration = Duration::from_secs(60);
/// Within this time, a consumer joins again at most once under a name that the broker has just taken from it. After a second
/// loss, it joins without a name until the name is free. So two daemons with one name can't keep ending each other's
/// membership.
const KEEP_EVERY: Duration = Duration::from_secs(600);
/// How long a consumer waits after its first loss of a name before it asks whether the name is free. The wait doubles
/// with each loss, because taking a name back costs a rebalance.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
/// The longest wait before a consumer asks whether its lost name is free. If a consumer has kept its name for this long after
/// taking it back, the waits start with [`PAUSE_FIRST`] again.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The longest name of a daemon, in bytes. A member's name also has the pipeline's name, the consumer's number and a digest, and
/// stays within Kafka's limit of 249 bytes.
const LONGEST: usize = 100;

/// The name of this daemon, the same after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceName {
    text: Arc<str>,
    /// Whether the configuration sets the name. Setting it promises that a stopped daemon comes back under this name.
    is_set: bool,
}

impl InstanceName {
    /// Returns `instance` of the configuration, or a name made of `host` and the port of `http.listen`. Two daemons on one host
    /// usually have different ports, so their names differ. Two hosts with one name can give two daemons the same name.
    pub fn new(config: &Config, host: &str) -> Self {
        match &config.instance {
            Some(text) => Self { text: text.as_str().into(), is_set: true },
            None => Self { text: derived(host, config.http.listen).into(), is_set: false },
        }
    }

    /// Returns an id of this process, made of the instance's name, the process's id and a random number.
    pub fn id(&self) -> String {
        format!("{}-{}-{:04x}", self.text, std::process::id(), fastrand::u16(..))
    }

    /// Returns whether two ids made by [`Self::id`] belong to different processes with the same instance name.
    pub fn is_shared(one: &str, other: &str) -> bool {
        let name = |id: &str| id.rsplitn(3, '-').nth(2).map(str::to_owned);
        one != other && name(one).is_some_and(|name| !name.is_empty()) && name(one) == name(other)
    }

    /// Returns the membership of a pipeline's consumer. `shutdown` is cancelled when the pipeline is told to end, at the end of
    /// the daemon or by a reload.
    ///
    /// `None` with KIP-848 if the configuration sets no name. With that protocol, a name has no advantage after a crash: any dead
    /// member keeps its partitions until its session times out. A name would make a stopped member keep its partitions too.
    pub fn member(&self, pipeline: &Pipeline, consumer: u32, shutdown: CancellationToken) -> Option<Membership> {
        if pipeline.group_protocol == GroupProtocol::Consumer && !self.is_set {
            return None;
        }
        // The broker gives a returning member its old assignment, even if the member now subscribes to other topics. So
        // the topics are a part of the name.
        let topics = match &pipeline.topics {
            Topics::List(names) => digest(&names.join(",")),
            Topics::Pattern(pattern) => digest(pattern),
        };
        Some(Membership {
            id: format!("{}-{}-{consumer}-{topics:08x}", self.text, pipeline.name),
            instance: Arc::clone(&self.text),
            leaves: pipeline.group_protocol != GroupProtocol::Consumer,
            comes_back: self.is_set.then_some(shutdown),
            name: Arc::default(),
            told: Arc::default(),
        })
    }
}

fn derived(host: &str, listen: SocketAddr) -> String {
    let host = if host.is_empty() { "tidegate" } else { host };
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let host: String = host.chars().map(legal).take(LONGEST - "-65535".len()).collect();
    format!("{host}-{}", listen.port())
}

/// Computes the 32-bit FNV-1a hash, which is the same in all builds. The names of members contain it.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The static membership of one consumer. `id` is its `group.instance.id`,
/// and `instance` the daemon's name, which is a part of `id`.
#[derive(Clone, Debug)]
pub struct Membership {
    pub id: String,
    instance: Arc<str>,
    /// Whether the member can leave the group. Under KIP-848 it can't, because librdkafka ends the membership of a
    /// named member only temporarily.
    leaves: bool,
    /// Cancelled when the pipeline is told to end. `None` if `instance` isn't set, because only `instance` promises that
    /// the daemon comes back.
    comes_back: Option<CancellationToken>,
    /// Shared by all clients that the consumer has one after the other.
    name: Arc<Mutex<Name>>,
    /// The text about the loss of the name. It is made once per client,
    /// because a client may report its fatal error more than once.
    told: Arc<OnceLock<String>>,
}

/// Whether a consumer has its name (`group.instance.id`), and when and how often it lost the name.
#[derive(Debug, Default)]
struct Name {
    /// When the consumer lost the name to another member; `None` while the consumer has the name.
    lost_at: Option<Instant>,
    /// When the consumer last took its name back; `None` if it never did.
    taken_back_at: Option<Instant>,
    /// How many times the name was lost. The count starts again after the consumer has had the name for [`PAUSE_MAX`].
    losses: u32,
    /// When the consumer last kept its name although the broker had taken the name from it.
    kept_at: Option<Instant>,
}

impl Name {
    fn lose(&mut self, now: Instant) {
        if self.taken_back_at.is_some_and(|at| now.duration_since(at) >= PAUSE_MAX) {
            self.losses = 0;
        }
        (self.lost_at, self.losses) = (Some(now), self.losses.saturating_add(1));
    }

    fn pause(&self) -> Duration {
        PAUSE_FIRST.saturating_mul(1 << self.losses.saturating_sub(1).min(16)).min(PAUSE_MAX)
    }

    fn is_wanted(&self, now: Instant) -> bool {
        self.lost_at.is_some_and(|at| now.duration_since(at) >= self.pause())
    }
}

impl Membership {
    /// Returns the membership for the consumer's next client; `None` if the consumer has lost its name.
    pub fn next(&self) -> Option<Self> {
        (!self.is_lost()).then(|| Self { told: Arc::default(), ..self.clone() })
    }

    /// Returns whether the broker keeps the member and its partitions after the consumer has closed. They are then kept until
    /// the session timeout, so that the next start gets them back. Otherwise the consumer leaves the group, and other members
    /// take over at once. Under `group_protocol = "consumer"` the member is always kept, because librdkafka can't end the
    /// membership of a named member. Under the other protocols it is kept only if `instance` is set and the pipeline was told
    /// to end.
    pub fn is_kept(&self) -> bool {
        !self.leaves || self.comes_back.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Returns whether the consumer has lost its name to another member and hasn't taken it back. It then joins without a
    /// name: if it took its name back at once, the other member would do the same, and neither could work.
    pub fn is_lost(&self) -> bool {
        lock(&self.name).lost_at.is_some()
    }

    /// Returns whether the consumer is without its name, and has waited long enough to ask whether the name is free.
    pub fn is_wanted(&self) -> bool {
        lock(&self.name).is_wanted(Instant::now())
    }

    /// Takes back the name, which is free: the consumer's next client joins under it.
    pub fn take_back(&self) {
        let mut name = lock(&self.name);
        (name.lost_at, name.taken_back_at) = (None, Some(Instant::now()));
    }

    /// Decides what a fatal error of the consumer means for its name. If the broker took the name from the member or refuses it,
    /// returns the message for the operator, and notes the loss unless the consumer may keep the name. Returns `None` for any
    /// other error.
    ///
    /// `troubled` says whether Kafka was unavailable within [`TROUBLED_WITHIN`]. If so, the consumer's own earlier session may be
    /// the cause: during the outage this session ended, and the client joined again under its name. The broker then refuses a
    /// late request of the earlier session. So if the broker took the name, the consumer joins again under this name once, and
    /// gives the name up only if the broker takes it again within ten minutes.
    pub fn lost(&self, fatal: Code, troubled: bool) -> Option<String> {
        if !matches!(fatal, Code::FencedInstanceId | Code::UnreleasedInstanceId) {
            return None;
        }
        Some(self.told.get_or_init(|| self.lose_or_keep(fatal, troubled)).clone())
    }

    fn lose_or_keep(&self, fatal: Code, troubled: bool) -> String {
        let Self { id, instance, .. } = self;
        let what = match fatal {
            Code::FencedInstanceId if troubled && self.may_keep() => {
                return format!(
                    "the broker ended a session of `{id}` after Kafka was unavailable, probably our own earlier one: \
                     this consumer joins again under the same name"
                );
            }
            Code::FencedInstanceId => format!("another member joined the group as `{id}`"),
            _ => {
                format!(
                    "the broker holds `{id}` for another member, which is running or whose session has not timed out"
                )
            }
        };
        lock(&self.name).lose(Instant::now());
        format!(
            "{what}: this consumer joins without a name until the name is free. If two daemons have the instance name \
             `{instance}`, set `instance` to a different name on each"
        )
    }

    /// Returns whether the consumer may keep a name that the broker took from it. If so, stores the time.
    fn may_keep(&self) -> bool {
        let mut name = lock(&self.name);
        let may = name.kept_at.is_none_or(|at| at.elapsed() >= KEEP_EVERY);
        if may {
            name.kept_at = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_of_one_name_are_told_apart_from_those_of_two() {
        let shared = InstanceName::is_shared;
        assert!(shared("tide-0-17-00ff", "tide-0-9-1234"));
        assert!(!shared("tide-0-17-00ff", "tide-1-17-00ff") && !shared("tide-0-17-00ff", "tide-0-17-00ff"));
        assert!(!shared("tide-0-17-00ff", "tide-17-00ff"), "an id of another form has another name");
    }

    fn pipeline(lines: &str) -> (Config, Pipeline) {
        let toml = format!(
            "kafka.bootstrap_servers = \"127.0.0.1:9092\"\npostgres.url = \"postgres://tidegate@127.0.0.1/t\"\n\
             pipelines.rides.table.name = \"rides\"\n{lines}"
        );
        let config = Config::parse("test.toml", &toml).expect("a configuration");
        let pipeline = config.pipelines[0].clone();
        (config, pipeline)
    }

    fn member(lines: &str) -> Option<Membership> {
        let (config, pipeline) = pipeline(lines);
        InstanceName::new(&config, "Host:1").member(&pipeline, 3, CancellationToken::new())
    }

    const TOPICS: &str = "pipelines.rides.topics = [\"a\", \"b\"]\n";

    #[test]
    fn a_name_is_made_of_host_port_pipeline_consumer_and_topics() {
        assert_eq!(member(TOPICS).map(|m| m.id).as_deref(), Some("Host-1-9464-rides-3-08876b46"));
        let set = format!("{TOPICS}instance = \"tg-0\"");
        assert_eq!(member(&set).map(|m| m.id).as_deref(), Some("tg-0-rides-3-08876b46"));
        let other = "pipelines.rides.topics = [\"a\"]\ninstance = \"tg-0\"";
        assert_ne!(member(other).map(|m| m.id), member(&set).map(|m| m.id), "another subscription is another place");
    }

    #[test]
    fn the_longest_name_is_one_that_kafka_takes() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 65535));
        assert_eq!(derived(&"h".repeat(300), listen).len(), LONGEST);
        assert_eq!(derived("", listen), "tidegate-65535");
        assert!(LONGEST + "-".len() + 63 + "-255".len() + "-01234567".len() <= 249);
    }

    #[test]
    fn a_place_is_kept_only_for_a_daemon_that_promised_to_come_back_and_was_told_to_end() {
        let told = CancellationToken::new();
        let (config, pipeline) = pipeline(&format!("{TOPICS}instance = \"tg-0\""));
        let member = InstanceName::new(&config, "h").member(&pipeline, 0, told.clone()).expect("it has a name");
        assert!(!member.is_kept(), "a pipeline that ends by itself leaves");
        told.cancel();
        assert!(member.is_kept());
        let (config, pipeline) = self::pipeline(TOPICS);
        assert!(!InstanceName::new(&config, "h").member(&pipeline, 0, told).expect("it has a name").is_kept());
    }

    #[test]
    fn under_kip_848_only_a_name_that_was_set_is_used() {
        let consumer = format!("{TOPICS}pipelines.rides.group_protocol = \"consumer\"\n");
        assert!(member(&consumer).is_none());
        assert!(member(&format!("{consumer}instance = \"tg-0\"")).is_some());
    }

    #[test]
    fn only_a_lost_name_is_a_lost_name() {
        let member = member(TOPICS).expect("it has a name");
        assert!(member.lost(Code::GroupAuthorizationFailed, true).is_none() && !member.is_lost());
        let words = member.lost(Code::FencedInstanceId, false).expect("another member has it");
        assert!(words.contains("Host-1-9464") && member.is_lost() && member.next().is_none(), "{words}");
    }

    #[test]
    fn a_lost_name_is_wanted_back_after_a_pause_that_doubles() {
        let (mut name, mut now) = (Name::default(), Instant::now());
        assert!(!name.is_wanted(now), "it has its name");
        for pause in [10, 20, 40, 80] {
            name.lose(now);
            now += Duration::from_secs(pause - 1);
            assert!(!name.is_wanted(now), "{pause}");
            now += Duration::from_secs(1);
            assert!(name.is_wanted(now), "{pause}");
            (name.lost_at, name.taken_back_at) = (None, Some(now));
        }
        (0..40).for_each(|_| name.lose(now));
        assert_eq!(name.pause(), PAUSE_MAX);
        name.lose(now + PAUSE_MAX);
        assert_eq!(name.pause(), PAUSE_FIRST, "it had its name for an hour");
    }

    #[test]
    fn a_name_that_was_taken_back_is_used_by_the_next_client() {
        let member = member(TOPICS).expect("it has a name");
        member.lost(Code::FencedInstanceId, false).expect("another member has it");
        assert!(member.next().is_none() && !member.is_wanted(), "it waits first");
        member.take_back();
        assert_eq!(member.next().map(|next| next.id), Some(member.id.clone()));
    }

    #[test]
    fn a_name_lost_in_an_outage_is_kept_once() {
        let member = member(TOPICS).expect("it has a name");
        for _ in 0..2 {
            let words = member.lost(Code::FencedInstanceId, true).expect("it is told");
            assert!(words.contains("joins again under the same name") && !member.is_lost(), "a client tells it once");
        }
        let next = member.next().expect("it keeps its name");
        let words = next.lost(Code::FencedInstanceId, true).expect("it is told");
        assert!(words.contains("another member joined the group") && member.is_lost(), "{words}");
    }
}
