//! `/metrics`, `/healthz`, `/readyz`, `/api/status`. Answers only questions; nothing here asks Kafka or Postgres.

mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::error;

use crate::daemon::Daemon;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, daemon: Arc<Daemon>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/status", get(status))
        .with_state(daemon);
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the HTTP endpoint ended");
    }
}

async fn metrics(State(daemon): State<Arc<Daemon>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], crate::metrics::render(&daemon.prometheus))
        .into_response()
}

/// The process lives. Asks nobody, so that an outage restarts nothing.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(daemon): State<Arc<Daemon>>) -> Response {
    let reasons = status::not_ready(&daemon);
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Response {
    axum::Json(status::of(&daemon)).into_response()
}
