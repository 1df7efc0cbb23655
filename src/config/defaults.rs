//! The default of each key, with its reason. `config/tidegate.toml` shows users the same values, and a test compares the two.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::Duration;

use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;

/// `max_tables`: how many tables a pipeline may write into if its records name them. Each table
/// that a batch's rows name costs at least one COPY.
pub const MAX_TABLES: u32 = 100;
pub const MAX_TABLES_LIMIT: u32 = 10_000;

/// `limits.memory`, 256 MiB: enough for two pipelines with two consumers each, and available even in small containers.
pub const MEMORY: u64 = 256 << 20;

/// `limits.drain_timeout`: under the 30 s that Kubernetes waits between SIGTERM and SIGKILL.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// `limits.claim_grace`: a revoke reaches a live consumer with one of its next heartbeats. By default they are at most 5 s apart.
pub const CLAIM_GRACE: Duration = Duration::from_secs(10);

/// `postgres.connect_timeout`: enough for TLS and authentication over a slow link, and shorter than `limits.drain_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `schema_registry.timeout`: an answer has only a few KiB, so a request that takes longer is better sent again.
pub const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);

/// `postgres.lock_timeout`: longer than other transactions normally take, and short enough that a blocker is reported soon.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// `postgres.statement_timeout`: a batch is normally copied in well under a second. A batch that times out is retried, and then
/// halved.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(12);

/// `postgres.write_timeout`: longer than `statement_timeout`, so that Postgres' own answer has time to arrive, and shorter than
/// `limits.drain_timeout`.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// `postgres.idle_in_transaction_timeout`: how long the locks of a suspended process can block the next owner of its partitions.
pub const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// `http.listen`: loopback, because the page requires no password.
pub const HTTP_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9464));

/// `log.level`: INFO has the lines that an operator may have to act on. DEBUG is for finding faults.
pub const LOG_LEVEL: tracing::Level = tracing::Level::INFO;

/// `pipelines.NAME.consumers`: one consumer keeps up with most topics, and users can configure more.
pub const CONSUMERS: NonZeroU32 = NonZeroU32::MIN;

/// The most consumers that a pipeline may have in one process: each has a thread, a connection and a share of the memory.
pub const MAX_CONSUMERS: u32 = 256;

/// `pipelines.NAME.batch`: large enough that a COMMIT costs little per record, and closed often enough that the table is nearly
/// current.
pub const BATCH: BatchLimits = BatchLimits {
    max_rows: NonZeroU32::new(50_000).expect("50 000 is not 0"),
    max_bytes: 8 << 20,
    max_age: Duration::from_millis(500),
};

/// `pipelines.NAME.dead_letters`: one bad producer among ten equal ones doesn't stop the pipeline. A wrong mapping stops it as
/// soon as 100 records would be dead letters.
pub const DEAD_LETTERS: DeadLetterLimits =
    DeadLetterLimits { max_share: 0.1, window: Duration::from_secs(300), min_count: 100 };

/// `max.poll.interval.ms` if `kafka.properties` doesn't set it: librdkafka's own default.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// `session.timeout.ms` if `kafka.properties` doesn't set it. This long after a daemon died, others take over its partitions. The
/// default is shorter than librdkafka's 45 s, which is meant for members whose late writes aren't fenced. It is longer than the 9
/// s (`broker.session.timeout.ms`) within which a KRaft controller replaces a dead broker, so that members survive the death of
/// their coordinator.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(12);
