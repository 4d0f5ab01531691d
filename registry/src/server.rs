//! How a registry starts, runs and stops.

use core::convert::Infallible;
use core::net::SocketAddr;
use core::pin::Pin;
use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use medbind_core::time::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, Made};
use crate::feed::stopped;
use crate::handshakes::{Handshake, Handshakes};
use crate::metrics::Metrics;
use crate::ownership;
use crate::pages::Pages;
use crate::pki::PkiError;
use crate::role::{Peer, Role};
use crate::routes::{App, router};
use crate::store::{OpenError, Store};
use crate::tls::Keeper;

/// A handshake that takes longer is given up, and sooner where others need the connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request may take so long where the peer has a certificate, its first request may
/// wait so long, and so may an HTTP/1 connection idle. For others [`Config::anonymous_idle`] holds.
const KNOWN_IDLE: Duration = Duration::from_mins(2);
/// A connection is ended after this, so that certificates are looked at again; one without a
/// certificate has nothing to ask that takes long.
const KNOWN_LIFE: Duration = Duration::from_hours(1);
const ANONYMOUS_LIFE: Duration = Duration::from_mins(1);
/// Peers without a certificate get one of so many connections.
const ANONYMOUS_SHARE: u32 = 4;
/// Files that are open besides connections: the database, and its log.
const OTHER_FILES: u64 = 64;
/// A connection that cannot be accepted is told of at most so often.
const ACCEPT_ERRORS_EVERY: Duration = Duration::from_mins(1);
/// A stop waits so long for requests that run.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_OCTETS: u32 = 32 << 10;
const MAX_STREAMS: u32 = 250;

/// Why a registry did not start: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {}", listen_advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The server's certificate, key or CA cannot be used for TLS.
    #[error("the certificates of the data directory cannot be used for TLS: {0}")]
    Tls(String),
}

impl StartError {
    /// Whether it is the command line or the data directory that has to be changed first. Otherwise
    /// it may go well the next time: a port or a directory that is in use, a full disk.
    pub fn is_configuration(&self) -> bool {
        let for_good = |kind: std::io::ErrorKind| {
            !matches!(
                kind,
                std::io::ErrorKind::AddrInUse
                    | std::io::ErrorKind::StorageFull
                    | std::io::ErrorKind::QuotaExceeded
                    | std::io::ErrorKind::Interrupted
            )
        };
        match self {
            Self::Listen { source, .. }
            | Self::DataDir(
                DataDirError::NotWritable { source, .. }
                | DataDirError::Pki(PkiError::File { source, .. }),
            ) => for_good(source.kind()),
            Self::DataDir(DataDirError::InUse { .. }) => false,
            Self::DataDir(
                DataDirError::CaMissing(_)
                | DataDirError::NoCaKey { .. }
                | DataDirError::Certificate { .. }
                | DataDirError::Pki(_),
            )
            | Self::Tls(_) => true,
            Self::Database(error) => match error {
                OpenError::Newer { .. } | OpenError::NotOurs(_) | OpenError::Denied { .. } => true,
                OpenError::Damaged { .. } | OpenError::Full(_) | OpenError::Open { .. } => false,
            },
        }
    }
}

fn listen_advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process has the port: stop it, or choose another port"
        }
        std::io::ErrorKind::PermissionDenied => "choose a port of 1024 or above",
        _ => "choose an address of this machine",
    }
}

/// A registry that accepts connections. Where it is dropped, it stops too, without waiting.
#[derive(Debug)]
pub struct Running {
    local_addr: SocketAddr,
    made: Vec<Made>,
    warnings: Vec<String>,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    max_connections: u32,
    /// What runs until the stop.
    tasks: JoinSet<()>,
    /// Which of them accepts connections; the other looks after the certificates.
    accepting: Id,
    store: Store,
    /// Let go of when the database is closed.
    data_dir: Arc<DataDir>,
}

impl Running {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What this start made, in order; empty where everything was there.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// What an operator should see to soon (a certificate near its end).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Waits until it is broken: a task has ended that runs until the stop. It accepts no
    /// connection any more, or lets its certificates end. Answers what there is to say of it.
    pub async fn broken(&mut self) -> String {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.tell_of(&ended),
            None => "all of the registry's tasks have ended".to_owned(),
        }
    }

    fn tell_of(&self, ended: &Result<(Id, ()), JoinError>) -> String {
        let (id, how) = match ended {
            Ok((id, ())) => (*id, "by itself".to_owned()),
            Err(error) => (error.id(), error.to_string()),
        };
        let task = if id == self.accepting {
            "accepts connections"
        } else {
            "looks after the certificates"
        };
        format!("the task that {task} ended: {how}")
    }

    /// Stops: waiting polls are answered, requests that run are finished (at most ten seconds),
    /// the database is closed.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next_with_id().await {
            if ended.is_err() {
                tracing::error!("{}", self.tell_of(&ended));
            }
        }
        let all = self.connections.acquire_many(self.max_connections);
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::warn!("connections were still open when the registry stopped");
        }
        self.store.close().await;
        drop(self.data_dir);
    }
}

/// Starts a registry. It runs in tasks of the current tokio runtime until [`Running::shutdown`].
pub async fn start(config: Config) -> Result<Running, StartError> {
    let clock = Clock::new(config.clock_offset);
    let data_dir = take_patiently(&config.data_dir).await?;
    // Before anything is made: a second start must not get further than this.
    let listen = |source| StartError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let local_addr = listener.local_addr().map_err(listen)?;
    let certificates = Certificates::new(data_dir.path(), &config.server_names);
    let mut identity = certificates.start(clock.now())?;
    let (database, made) = data_dir.database()?;
    let store = Store::open(&database, clock, config.max_database_pages).await?;
    let max_connections =
        u32::try_from(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let metrics = Arc::new(Metrics::default());
    let made: Vec<Made> = core::mem::take(&mut identity.made)
        .into_iter()
        .chain(made)
        .collect();
    let mut warnings = identity.warnings.clone();
    let (keeper, tls) = Keeper::new(certificates, identity, clock, Arc::clone(&metrics))?;
    let too_few = raise_file_limit(max_connections);
    if let Some(warning) = &too_few {
        tracing::warn!("{warning}");
    }
    warnings.extend(too_few);
    let (stop, stopping) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(
        usize::try_from(max_connections).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let data_dir = Arc::new(data_dir);
    let app = App {
        store: store.clone(),
        metrics,
        pages: Pages::new(store.clone()),
        health: Arc::default(),
        data_dir: Arc::clone(&data_dir),
        stopping: stopping.clone(),
    };
    let server = Server {
        router: router(app.clone()),
        app,
        tls,
        connections: Arc::clone(&connections),
        handshakes: Handshakes::default(),
        anonymous: Arc::new(Semaphore::new(anonymous_slots(max_connections))),
        anonymous_idle: config.anonymous_idle,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.keep(config.look_every, stopping));
    let accepting = tasks.spawn(server.accept(listener)).id();
    tracing::info!(address = %local_addr, "the registry listens");
    Ok(Running {
        local_addr,
        made,
        warnings,
        stop,
        connections,
        max_connections,
        tasks,
        accepting,
        store,
        data_dir,
    })
}

fn anonymous_slots(max_connections: u32) -> usize {
    let slots = max_connections.div_ceil(ANONYMOUS_SHARE);
    usize::try_from(slots).unwrap_or(Semaphore::MAX_PERMITS)
}

/// Raises the limit of open files as far as this process may; answers what there is to warn of.
fn raise_file_limit(max_connections: u32) -> Option<String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // What cannot be raised is found out below.
    let _ = setrlimit(Resource::Nofile, raised);
    let limit = getrlimit(Resource::Nofile).current.or(current)?;
    too_few_files(limit, max_connections)
}

fn too_few_files(limit: u64, max_connections: u32) -> Option<String> {
    let needed = u64::from(max_connections).saturating_add(OTHER_FILES);
    (limit < needed).then(|| {
        format!(
            "this process may open {limit} files, which is less than {max_connections} connections \
             need: raise its limit to {needed} (ulimit -n, LimitNOFILE=), or set --max-connections \
             lower"
        )
    })
}

/// Takes the data directory; one that stops just now is waited for. What is not ours is refused
/// before anything is made or written there.
async fn take_patiently(path: &Path) -> Result<DataDir, StartError> {
    let mut tries: u32 = 20;
    loop {
        let taken = match DataDir::find(path) {
            Ok(found) => {
                ownership::check(&found.database()).await?;
                found.take()
            }
            Err(error) => Err(error),
        };
        match taken {
            Err(DataDirError::InUse { .. }) if tries > 0 => {
                tries -= 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            taken => return Ok(taken?),
        }
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    app: App,
    /// What new connections are answered with.
    tls: watch::Receiver<TlsAcceptor>,
    connections: Arc<Semaphore>,
    handshakes: Handshakes,
    /// The part of the connections that peers without a certificate may have.
    anonymous: Arc<Semaphore>,
    anonymous_idle: Duration,
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The first request, the head of each, and a pause between two over HTTP/1.
    idle: Duration,
    life: Duration,
    /// Whether pauses are bounded over HTTP/2, too. There an edge's connection is asked for a
    /// sign of life.
    idle_always: bool,
    /// How long what runs may take once the connection is to end.
    end: Duration,
}

impl Server {
    /// Accepts until the registry stops.
    async fn accept(self, listener: TcpListener) {
        let mut stopping = self.app.stopping.clone();
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.accept_one(&listener) => accepted,
                () = stopped(&mut stopping) => break,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let server = self.clone();
                    let handshake = self.handshakes.begin();
                    tokio::spawn(async move {
                        server.serve(stream, handshake).await;
                        drop(server);
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: let some connections end.
                    if told.is_none_or(|at| at.elapsed() >= ACCEPT_ERRORS_EVERY) {
                        told = Some(Instant::now());
                        tracing::warn!("cannot accept connections: {error}");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept_one(
        &self,
        listener: &TcpListener,
    ) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let (stream, _address) = listener.accept().await?;
        if self.connections.available_permits() == 0 {
            self.handshakes.let_go_of_oldest();
        }
        let permit = Arc::clone(&self.connections).acquire_owned().await;
        let permit = permit.map_err(std::io::Error::other)?;
        Ok((stream, permit))
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        mut handshake: Handshake,
    ) -> Option<TlsStream<TcpStream>> {
        let acceptor = self.tls.borrow().clone();
        let mut stopping = self.app.stopping.clone();
        let accepted = tokio::select! {
            accepted = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => accepted.ok(),
            () = handshake.let_go() => None,
            () = stopped(&mut stopping) => None,
        };
        match accepted {
            Some(Ok(stream)) if handshake.ended() => return Some(stream),
            Some(Err(error)) => tracing::debug!("handshake: {error}"),
            Some(Ok(_)) | None => {}
        }
        self.app.metrics.failed_handshakes.add();
        None
    }

    async fn serve(&self, stream: TcpStream, handshake: Handshake) {
        // Answers are small and written whole: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let Some(stream) = self.shake_hands(stream, handshake).await else {
            return;
        };
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let peer = match session.peer_certificates().and_then(<[_]>::first) {
            None => Peer::ANONYMOUS,
            Some(certificate) => match Peer::from_certificate(certificate) {
                Ok(peer) => peer,
                Err(error) => {
                    // Fail closed: it is somebody of ours, and may do nothing.
                    tracing::warn!("{error}");
                    Peer {
                        role: Role::None,
                        not_before: None,
                        not_after: Some(Timestamp::MAX),
                    }
                }
            },
        };
        let anonymous = peer.role == Role::None;
        let slot = anonymous.then(|| Arc::clone(&self.anonymous).try_acquire_owned());
        if let Some(Err(_)) = slot {
            // Fail closed: the other slots are for those who show a certificate.
            self.app.metrics.refused_connections.add();
            return;
        }
        let _open = self.app.metrics.connections.enter();
        self.app.metrics.clients.seen(&peer, Instant::now());
        let bounds = if anonymous {
            Bounds {
                idle: self.anonymous_idle,
                life: ANONYMOUS_LIFE,
                idle_always: true,
                end: self.anonymous_idle,
            }
        } else {
            Bounds {
                idle: KNOWN_IDLE,
                life: KNOWN_LIFE,
                idle_always: false,
                end: KNOWN_LIFE,
            }
        };
        let (begun, requests) = watch::channel(());
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            begun.send_replace(());
            request.extensions_mut().insert(peer.clone());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { answer.await.map_err(|never: Infallible| never) }
        });
        let stream = TokioIo::new(stream);
        // By what the handshake agreed on (RFC 9113, 3.2): no octet has to come first.
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADER_OCTETS)
                .max_concurrent_streams(MAX_STREAMS)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(20));
            let connection = builder.serve_connection(stream, service);
            self.drive(
                connection,
                http2::Connection::graceful_shutdown,
                requests,
                bounds,
            )
            .await;
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.idle)
                .max_buf_size(usize::try_from(MAX_HEADER_OCTETS).unwrap_or(usize::MAX));
            let connection = builder.serve_connection(stream, service);
            self.drive(
                connection,
                http1::Connection::graceful_shutdown,
                requests,
                bounds,
            )
            .await;
        }
    }

    /// Serves a connection until it ends, or is to end: then what runs is finished, within bounds.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        end: impl FnOnce(Pin<&mut C>),
        requests: watch::Receiver<()>,
        bounds: Bounds,
    ) {
        let mut connection = core::pin::pin!(connection);
        let mut stopping = self.app.stopping.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stopped(&mut stopping) => None,
            () = silent(requests, bounds) => None,
            () = tokio::time::sleep(bounds.life) => None,
        };
        let ended = if let Some(ended) = ended {
            ended
        } else {
            end(connection.as_mut());
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = tokio::time::sleep(bounds.end) => return,
                () = stopped_for(&mut stopping, STOP_TIMEOUT) => return,
            }
        };
        if let Err(error) = ended {
            tracing::debug!("connection: {error}");
        }
    }
}

/// Ends when no request has begun for too long.
async fn silent(mut requests: watch::Receiver<()>, bounds: Bounds) {
    while let Ok(Ok(())) = timeout(bounds.idle, requests.changed()).await {
        if !bounds.idle_always {
            core::future::pending::<()>().await;
        }
    }
}

/// Ends when the registry has been stopping for so long.
async fn stopped_for(stopping: &mut watch::Receiver<bool>, time: Duration) {
    stopped(stopping).await;
    tokio::time::sleep(time).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_warned_of() {
        assert_eq!(too_few_files(10_064, 10_000), None);
        let warning = too_few_files(1024, 10_000).unwrap();
        assert!(
            warning.contains("may open 1024 files") && warning.contains("to 10064"),
            "{warning}"
        );
    }

    #[tokio::test]
    async fn a_registry_that_accepts_no_more_says_that_it_is_broken() {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = Config::new(scratch.path().join("data"));
        config.listen = ([127, 0, 0, 1], 0).into();
        let mut running = start(config).await.unwrap();
        let soon = timeout(Duration::from_millis(50), running.broken()).await;
        assert!(soon.is_err(), "it is whole: {soon:?}");
        running.tasks.abort_all();
        let mut told = [running.broken().await, running.broken().await];
        told.sort();
        for (told, task) in told.iter().zip([
            "the task that accepts connections ended: ",
            "the task that looks after the certificates ended: ",
        ]) {
            assert!(told.starts_with(task), "{told}");
        }
        timeout(STOP_TIMEOUT, running.shutdown()).await.unwrap();
    }

    #[test]
    fn most_connections_are_for_those_who_show_a_certificate() {
        assert_eq!(anonymous_slots(10_000), 2_500);
        assert_eq!(anonymous_slots(1), 1);
    }
}
