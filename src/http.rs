//! Serves the live page at `/`, the runbook at `/runbook`, and `/api/status`, `/api/history`, `/api/events`,
//! `/metrics`, `/healthz`, `/readyz`. Requests are read-only and answered from memory: none of them queries Kafka or
//! Postgres.

mod assets;
mod board;
mod dead_letter_news;
mod document;
mod frames;
mod guard;
mod history;
mod instances;
mod runbook;
mod status;
pub(crate) mod text;
mod timeline;
mod watch;
mod words;
mod work_view;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use tokio::net::TcpListener;
use tracing::error;

use crate::daemon::Daemon;
use crate::metrics::epoch_ms;
use history::Columns;
use instances::Instances;
use watch::Watch;

pub(crate) use document::Status;
pub(crate) use instances::deregister;
pub(crate) use words::duration;

#[derive(Debug)]
struct Site {
    daemon: Arc<Daemon>,
    watch: Watch,
    instances: Mutex<Instances>,
}

/// Serves requests until the future is dropped.
///
/// # Cancel safety
/// May be dropped at any point. Call `deregister` afterwards, to delete this instance's row of `tidegate.instance`.
pub async fn serve(listener: TcpListener, daemon: Arc<Daemon>) {
    let guard = guard::Guard::new(&daemon.config().http);
    let site = Arc::new(Site { daemon, watch: Watch::new(), instances: Mutex::default() });
    let router = Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/status", get(status))
        .route("/api/history", get(history))
        .route("/api/events", get(events))
        .route("/runbook", get(runbook::answer))
        .merge(assets::routes())
        .with_state(Arc::clone(&site))
        .layer(middleware::from_fn_with_state(guard, guard::check));
    let server = async {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "the HTTP endpoint ended");
        }
    };
    tokio::join!(server, watch::run(Arc::clone(&site)), instances::run(site));
}

async fn metrics(State(site): State<Arc<Site>>) -> Response {
    let text = crate::metrics::render(&site.daemon.prometheus);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Answers that the process is alive. Doesn't check Kafka or Postgres: during their outages, a restart of this process
/// would not help.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(site): State<Arc<Site>>) -> Response {
    let reasons = status::not_ready(&site.daemon);
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

/// Serves the page, with the current state as text for browsers without scripts.
async fn page(State(site): State<Arc<Site>>) -> Response {
    let now = status::of(&site, Some(site.watch.timeline()));
    let minute = epoch_ms() - 60_000;
    let history = |name: &str| site.watch.history(name, minute);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], assets::index(&text::render(&now, history))).into_response()
}

async fn status(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let document = serde_json::to_value(status::of(&site, Some(site.watch.timeline()))).unwrap_or_default();
    // The tag is weak: two documents with the same tag may differ in fields that change merely because time passes.
    let tag = format!("W/\"{:016x}\"", frames::fingerprint(&document));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.flat_map(|tags| tags.split(',')).any(|known| known.trim() == tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, axum::Json(document)).into_response()
}

#[derive(serde::Deserialize)]
struct Period {
    pipeline: String,
    /// Milliseconds since the epoch.
    #[serde(default)]
    from: i64,
}

async fn history(State(site): State<Arc<Site>>, Query(stretch): Query<Period>) -> Response {
    let name = stretch.pipeline.as_str();
    // A pipeline that was added less than a second ago has no sample yet.
    let added = || site.daemon.pipelines().iter().any(|pipeline| *pipeline.name == *name).then(|| Columns::new(name));
    match site.watch.history(name, stretch.from).or_else(added) {
        Some(columns) => axum::Json(columns).into_response(),
        None => (StatusCode::NOT_FOUND, "no such pipeline\n").into_response(),
    }
}

/// Serves server-sent events: first the current document, and then its changes once per second.
async fn events(State(site): State<Arc<Site>>) -> Response {
    let Some((first, frames)) = site.watch.join(&site) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many viewers\n").into_response();
    };
    // A viewer that can't keep up is disconnected, and its browser reconnects.
    let frames = stream::unfold((Some(first), frames), |(first, mut frames)| async {
        let frame = match first {
            Some(first) => first,
            None => frames.recv().await.ok()?,
        };
        Some((Ok::<_, Infallible>(frame.to_string()), (None, frames)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(frames)).into_response()
}
