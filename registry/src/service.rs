//! What is asked of the service itself: health, metrics, the edges' keys.

use core::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{StatusCode, header};
use sqlx::Row as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::problem::Problem;
use crate::routes::App;
use crate::store::StoreError;

const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// For so long one look at the database answers all who ask.
const HEALTH_GOOD_FOR: Duration = Duration::from_secs(1);

/// How the service is, for anybody. However many ask, one at a time looks, once a second: they take
/// no reader from those who wait for feed and lookup.
#[derive(Debug)]
pub(crate) struct Health {
    good_for: Duration,
    /// When it was looked last, and whether the database did answer.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::good_for(HEALTH_GOOD_FOR)
    }
}

impl Health {
    fn good_for(good_for: Duration) -> Self {
        Self {
            good_for,
            last: Mutex::default(),
        }
    }

    /// What was found last; where that is too long ago, what `look` finds now.
    async fn ask(&self, look: impl Future<Output = Result<(), StoreError>>) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, healthy)) = *last
            && at.elapsed() < self.good_for
        {
            return healthy;
        }
        let healthy = match tokio::time::timeout(HEALTH_TIMEOUT, look).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!("unhealthy: {error}");
                false
            }
            Err(_) => {
                tracing::error!("unhealthy: the database does not answer");
                false
            }
        };
        *last = Some((Instant::now(), healthy));
        healthy
    }
}

/// `GET /healthz`: 200 where the database answers those who decide, 503 otherwise.
pub(crate) async fn health(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let look = async {
        let mut tx = app.store.read_for_edges().await?;
        sqlx::query("SELECT 1 FROM history")
            .fetch_one(&mut *tx)
            .await?;
        Ok(())
    };
    if app.health.ask(look).await {
        Ok(Json(serde_json::json!({"status": "ok"})))
    } else {
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unhealthy"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Arc;

    use crate::clock::Clock;
    use crate::data_dir::DataDir;
    use crate::pages::Pages;
    use crate::store::Store;
    use futures_util::future::join_all;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn however_many_ask_the_database_is_looked_at_once() {
        for (good_for, is_well, expected) in [
            (LONG, true, 1),
            (LONG, false, 1),
            (Duration::ZERO, true, 100),
        ] {
            let health = Health::good_for(good_for);
            let looks = AtomicU32::new(0);
            let asking = (0..100).map(|_| {
                health.ask(async {
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    is_well.then_some(()).ok_or(StoreError::Busy)
                })
            });
            let answers = join_all(asking).await;
            assert_eq!(answers, [is_well; 100]);
            assert_eq!(looks.into_inner(), expected);
        }
    }

    #[tokio::test]
    async fn who_asks_how_it_is_takes_no_reader_from_the_edges() {
        let scratch = tempfile::tempdir().unwrap();
        let data_dir = DataDir::find(scratch.path()).unwrap().take().unwrap();
        let clock = Clock::new(jiff::SignedDuration::ZERO);
        let path = scratch.path().join("registry.sqlite");
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let store = Store::open(&path, clock, None).await.unwrap();
        let app = App {
            pages: Pages::new(store.clone()),
            store,
            metrics: Arc::default(),
            health: Arc::new(Health::good_for(LONG)),
            data_dir: Arc::new(data_dir),
            stopping,
        };
        assert!(health(State(app.clone())).await.is_ok());
        let mut taken = Vec::new();
        for _ in 0..crate::store::EDGE_READERS {
            taken.push(app.store.read_for_edges().await.unwrap());
        }
        let asking = (0..8).map(|_| health(State(app.clone())));
        assert!(join_all(asking).await.iter().all(Result::is_ok));
        drop(taken);
        app.store.close().await;
    }
}
