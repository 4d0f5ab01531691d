//! What is asked of the service itself: health, metrics, the edges' keys.

use core::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{StatusCode, header};
use sqlx::Row as _;

use crate::problem::Problem;
use crate::routes::App;
use crate::store::StoreError;

const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /healthz`: 200 where the database answers those who decide, 503 otherwise.
pub(crate) async fn health(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let alive = async {
        let mut tx = app.store.read_for_edges().await?;
        sqlx::query("SELECT 1 FROM history")
            .fetch_one(&mut *tx)
            .await?;
        Ok::<_, StoreError>(())
    };
    let unhealthy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unhealthy");
    match tokio::time::timeout(HEALTH_TIMEOUT, alive).await {
        Ok(Ok(())) => Ok(Json(serde_json::json!({"status": "ok"}))),
        Ok(Err(error)) => Err(unhealthy.caused_by(error)),
        Err(_) => Err(unhealthy.caused_by("the database does not answer")),
    }
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let mut connection = app.store.read().await?;
    let rows = sqlx::query("SELECT state, count(*) FROM devices GROUP BY state")
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    let devices = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<Vec<_>, sqlx::Error>>()
        .map_err(StoreError::from)?;
    let head = app.store.watch_head().borrow().revision;
    let text = app.metrics.render(head, &devices);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// `GET /v1/edge/pseudonym-key`.
pub(crate) async fn pseudonym_key(State(app): State<App>) -> impl IntoResponse {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (content_type, app.store.pseudonym_key().to_json())
}
