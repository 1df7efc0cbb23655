//! Shows a trip as its customer sees it. Reads `customer_info` whenever a NOTIFY announces a batch, and measures how
//! old the data is.
//!
//! [`Customer`] is pure, and decides what to print and what to measure. [`watch`] only listens and reads.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::time::{sleep, timeout};

use crate::customer::{Customer, Sighting, WatchSummary};

/// The channel on which each batch of `customer_info` is announced by NOTIFY.
const CHANNEL: &str = "customer_info";
/// The longest wait for a notification. Then the row is read anyway, because a broken connection loses notifications.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(2);
const PAUSE_AFTER_A_FAULT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const SIGHTING: &str = "
SELECT (extract(epoch FROM ts) * 1000)::int8, (extract(epoch FROM sent_at) * 1000)::int8, region,
    round(lat * 1e6)::int8, round(lon * 1e6)::int8, speed_kmh::float8, odometer_mm, state, event IS NOT DISTINCT FROM 'trip_ended'
FROM public.customer_info WHERE trip_id = $1";

#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// The URL of the database with the table `customer_info`: `postgres://…`.
    pub database_url: String,
    pub trip_id: u64,
    /// Where the customer waits: latitude and longitude in millionths of a degree. By default, the middle of the vehicle's
    /// region.
    pub at: Option<(i64, i64)>,
    /// The watch ends after this many new readings, not counting the first reading. `None` means that it ends with the trip.
    pub readings: Option<u64>,
}

/// Watches until the trip has ended or `spec.readings` is reached. Calls `say` with each new sentence, and with each error.
/// Retries after an error.
///
/// # Errors
/// If the database can't be reached at the start.
///
/// # Cancel safety
/// May be dropped at any point; `customer` keeps what it has seen.
pub async fn watch(spec: &WatchSpec, customer: &mut Customer, mut say: impl FnMut(&str)) -> Result<(), sqlx::Error> {
    let pool =
        PgPoolOptions::new().max_connections(2).acquire_timeout(CONNECT_TIMEOUT).connect(&spec.database_url).await?;
    let mut listener = Some(listen(&pool).await?);
    loop {
        match look(&pool, spec.trip_id).await {
            Ok(sighting) => {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                if let Some(words) = customer.see(sighting.as_ref(), now_ms) {
                    say(&words);
                }
            }
            Err(error) => say(&format!("can't look: {error}")),
        }
        if customer.is_done() || spec.readings.is_some_and(|readings| customer.readings() >= readings) {
            return Ok(());
        }
        let heard = match &mut listener {
            Some(listener) => timeout(LOOK_AT_LEAST_EVERY, news(listener)).await.unwrap_or(Ok(())),
            None => listen(&pool).await.map(|new| listener = Some(new)),
        };
        if let Err(error) = heard {
            say(&format!("can't listen: {error}"));
            listener = None;
            sleep(PAUSE_AFTER_A_FAULT).await;
        }
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Waits until a batch is announced. If several were announced, returns once for all of them.
async fn news(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    listener.recv().await?;
    while let Ok(more) = timeout(Duration::ZERO, listener.recv()).await {
        more?;
    }
    Ok(())
}

async fn look(pool: &PgPool, trip_id: u64) -> Result<Option<Sighting>, sqlx::Error> {
    let Some(row) = sqlx::query(SIGHTING).bind(trip_id.cast_signed()).fetch_optional(pool).await? else {
        return Ok(None);
    };
    Ok(Some(Sighting {
        ts_ms: row.try_get(0)?,
        sent_ms: row.try_get(1)?,
        region: row.try_get(2)?,
        at: (row.try_get(3)?, row.try_get(4)?),
        speed_kmh: row.try_get(5)?,
        odometer_mm: row.try_get(6)?,
        state: row.try_get(7)?,
        ended: row.try_get(8)?,
    }))
}

/// Runs [`watch`] until it ends, or until `stop` completes. Returns the summary of the readings so far.
///
/// # Errors
/// As [`watch`].
pub async fn watch_until(
    spec: &WatchSpec,
    stop: impl Future<Output = ()>,
    say: impl FnMut(&str),
) -> Result<WatchSummary, sqlx::Error> {
    let mut customer = Customer::new(spec.at);
    let watched = tokio::select! {
        watched = watch(spec, &mut customer, say) => watched,
        () = stop => Ok(()),
    };
    watched.map(|()| customer.summary())
}
