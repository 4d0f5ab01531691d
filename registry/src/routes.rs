//! Who may do what? The one table of the HTTP API, and how it is held to.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use axum::Router;
use axum::extract::{
    DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Path, Query, Request, State,
};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use medbind_core::identity::DeviceId;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::change::ChangeError;
use crate::data_dir::DataDir;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::problem::Problem;
use crate::role::{Peer, Role};
use crate::store::{Store, StoreError};
use crate::{audit, feed, import, operator, service};

/// The largest body of a request, in octets; an import is a stream and has no such bound.
const MAX_BODY_OCTETS: usize = 64 << 10;
/// No handler works on one request for longer. A stream goes on after its handler.
const MAX_WORK: Duration = Duration::from_secs(75);

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    /// The database.
    pub store: Store,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The feed's pages.
    pub pages: Pages,
    /// How the service is.
    pub health: Arc<service::Health>,
    /// Ours alone until the last of these values is gone.
    #[expect(dead_code, reason = "held, never read")]
    pub data_dir: Arc<DataDir>,
    /// Turns true when the registry stops: those who wait are answered.
    pub stopping: watch::Receiver<bool>,
}

/// Whom an endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever connects.
    Anyone,
    /// Edges, and operators.
    Edge,
    /// Operators alone.
    Operator,
}

/// A line of the table.
pub(crate) struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, as axum matches it.
    pub path: &'static str,
    /// Whom it serves.
    pub access: Access,
    handler: MethodRouter<App>,
}

/// Every endpoint there is. What does not stand here is 404.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    use Access::{Anyone, Edge, Operator};
    let row = |method, path, access, handler| Endpoint {
        method,
        path,
        access,
        handler,
    };
    let (read, send, set) = (|| Method::GET, || Method::POST, || Method::PUT);
    vec![
        row(read(), "/healthz", Anyone, get(service::health)),
        row(read(), "/metrics", Operator, get(service::metrics)),
        row(read(), "/v1/feed", Edge, get(feed::page)),
        row(read(), "/v1/feed/devices/{device}", Edge, get(feed::lookup)),
        row(
            read(),
            "/v1/edge/pseudonym-key",
            Edge,
            get(service::pseudonym_key),
        ),
        row(send(), "/v1/devices", Operator, post(import::import)),
        row(read(), "/v1/devices", Operator, get(operator::list)),
        row(
            read(),
            "/v1/devices/{device}",
            Operator,
            get(operator::show),
        ),
        row(
            send(),
            "/v1/devices/{device}/suspend",
            Operator,
            post(operator::suspend),
        ),
        row(
            send(),
            "/v1/devices/{device}/resume",
            Operator,
            post(operator::resume),
        ),
        row(
            send(),
            "/v1/devices/{device}/revoke",
            Operator,
            post(operator::revoke),
        ),
        row(
            send(),
            "/v1/devices/{device}/release",
            Operator,
            post(operator::release),
        ),
        row(
            send(),
            "/v1/devices/{device}/secret",
            Operator,
            post(operator::new_secret),
        ),
        row(
            set(),
            "/v1/devices/{device}/expires_at",
            Operator,
            put(operator::expires_at),
        ),
        row(
            set(),
            "/v1/devices/{device}/pins",
            Operator,
            put(operator::pins),
        ),
        row(send(), "/v1/claims", Operator, post(operator::claim)),
        row(read(), "/v1/export", Operator, get(operator::export)),
        row(read(), "/v1/audit", Operator, get(audit::read)),
    ]
}

/// Method, path and access of every endpoint, for tests and documents.
pub fn table() -> impl Iterator<Item = (Method, &'static str, Access)> {
    endpoints()
        .into_iter()
        .map(|row| (row.method, row.path, row.access))
}

/// The whole API. A [`Peer`] must be among the request's extensions; without one the caller is
/// nobody.
pub(crate) fn router(app: App) -> Router {
    let mut router = Router::new();
    for Endpoint {
        path,
        access,
        handler,
        ..
    } in endpoints()
    {
        let guard = middleware::from_fn_with_state((app.clone(), access), admit);
        router = router.route(path, handler.layer(guard));
    }
    router
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        })
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not_found") })
        .layer(DefaultBodyLimit::max(MAX_BODY_OCTETS))
        .layer(middleware::from_fn_with_state(app.clone(), watch_over))
        .with_state(app)
}

/// Bounds, counts and logs each request.
async fn watch_over(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "other".to_owned(),
    };
    let mut response = match tokio::time::timeout(MAX_WORK, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "timed_out").into_response(),
    };
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status();
    app.metrics.count_request(&method, &route, status);
    // Neither path nor query: they name devices and cursors.
    tracing::debug!(%method, route, status = status.as_u16(), "request");
    response
}

/// Lets those in whom the table names.
async fn admit(
    State((app, access)): State<(App, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .cloned()
        .unwrap_or(Peer::ANONYMOUS);
    check(&peer, access, app.store.now())?;
    request.extensions_mut().insert(Caller(peer.role));
    Ok(next.run(request).await)
}

fn check(peer: &Peer, access: Access, now: medbind_core::time::Timestamp) -> Result<(), Problem> {
    if access == Access::Anyone {
        return Ok(());
    }
    let Some(not_after) = peer.not_after else {
        return Err(
            Problem::new(StatusCode::UNAUTHORIZED, "no_peer_certificate")
                .because("this needs a client certificate of the infrastructure CA"),
        );
    };
    // A connection may outlive its certificate.
    if now > not_after {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "certificate_expired",
        ));
    }
    match (access, &peer.role) {
        (Access::Anyone, _)
        | (Access::Edge, Role::Edge(_) | Role::Operator(_))
        | (Access::Operator, Role::Operator(_)) => Ok(()),
        (Access::Edge | Access::Operator, Role::None) | (Access::Operator, Role::Edge(_)) => {
            Err(Problem::new(StatusCode::FORBIDDEN, "not_permitted")
                .because("the client certificate's role may not do this"))
        }
    }
}

/// Who calls, as the table let in.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Role);

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::internal("no caller"))
    }
}

/// The device that the path names, in its canonical text.
pub(crate) struct Named(pub DeviceId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("the path names no device"))?;
        text.parse().map(Self).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid_device").because(format!("{error}"))
        })
    }
}

/// A query, strictly.
pub(crate) struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::invalid(error.body_text()))?;
        Ok(Self(asked))
    }
}

/// A body of one JSON document, strictly.
pub(crate) struct Sent<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(document)) => Ok(Self(document)),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

fn unreadable(error: &axum::extract::rejection::JsonRejection) -> Problem {
    let code = match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ => return Problem::invalid(error.body_text()),
    };
    Problem::new(error.status(), code).because(error.body_text())
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_full")
                .because("the registry's disk is full; nothing was changed")
                .caused_by(error),
            StoreError::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            StoreError::Busy => {
                let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy")
                    .because("too many requests look through the registry: try again");
                problem.retry_after = Some(5);
                problem
            }
            StoreError::Corrupt(_) | StoreError::Ended(_) | StoreError::Database(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NoSuchDevice => Self::new(StatusCode::NOT_FOUND, "unknown_device"),
            ChangeError::Conflict(why) => {
                Self::new(StatusCode::CONFLICT, "state_conflict").because(why)
            }
            ChangeError::EpochsUsedUp => {
                Self::new(StatusCode::CONFLICT, "state_conflict").because(error.to_string())
            }
            ChangeError::Store(error) => error.into(),
        }
    }
}
