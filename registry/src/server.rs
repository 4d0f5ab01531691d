//! How a registry starts, runs and stops.

use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use medbind_core::time::Timestamp;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, Identity, Made};
use crate::feed::{Tail, stopped};
use crate::metrics::Metrics;
use crate::role::{Peer, Role};
use crate::routes::{App, router};
use crate::store::{OpenError, Store};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, or a connection idle: without a certificate, and with.
const ANONYMOUS_IDLE: Duration = Duration::from_secs(10);
const KNOWN_IDLE: Duration = Duration::from_mins(2);
/// A connection is ended after this, so that certificates are looked at again.
const CONNECTION_LIFE: Duration = Duration::from_hours(1);
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
    accepting: JoinHandle<()>,
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

    /// Stops: waiting polls are answered, requests that run are finished (at most ten seconds),
    /// the database is closed.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!("the accepting task ended: {error}");
        }
        let all = self.connections.acquire_many(self.max_connections);
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
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
    let mut identity = data_dir.identity(&config.server_names, clock.now())?;
    let tls = tls_config(&identity)?;
    let (database, made) = data_dir.database()?;
    identity.made.extend(made);
    let store = Store::open(&database, clock, config.max_database_pages).await?;
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
    }
    let max_connections =
        u32::try_from(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let (stop, stopping) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(
        usize::try_from(max_connections).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let data_dir = Arc::new(data_dir);
    let app = App {
        store: store.clone(),
        metrics: Arc::new(Metrics::default()),
        tail: Arc::new(Tail::default()),
        data_dir: Arc::clone(&data_dir),
        stopping,
    };
    let server = Server {
        router: router(app.clone()),
        app,
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        connections: Arc::clone(&connections),
    };
    let accepting = tokio::spawn(server.accept(listener));
    tracing::info!(address = %local_addr, "the registry listens");
    Ok(Running {
        local_addr,
        made: identity.made,
        warnings: identity.warnings,
        stop,
        connections,
        max_connections,
        accepting,
        store,
        data_dir,
    })
}

/// Takes the data directory; one that stops just now is waited for.
async fn take_patiently(path: &Path) -> Result<DataDir, DataDirError> {
    for _ in 0..20 {
        match DataDir::take(path) {
            Err(DataDirError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            taken => return taken,
        }
    }
    DataDir::take(path)
}

/// TLS 1.2 or later; a client certificate may be left out, and is verified where it is given.
fn tls_config(identity: &Identity) -> Result<ServerConfig, StartError> {
    let failed =
        |what: &str, error: &dyn core::fmt::Display| StartError::Tls(format!("{what}: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| failed("infra-ca/cert.pem", &error))?;
        roots
            .add(certificate)
            .map_err(|error| failed("infra-ca/cert.pem", &error))?;
    }
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed("server/cert.pem", &error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|_| StartError::Tls("server/key.pem is no PEM private key".to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed("infra-ca/cert.pem", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| failed("protocol versions", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| failed("server/cert.pem", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Clone)]
struct Server {
    router: Router,
    app: App,
    acceptor: TlsAcceptor,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Accepts until the registry stops.
    async fn accept(self, listener: TcpListener) {
        let mut stopping = self.app.stopping.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept_one(&listener) => accepted,
                () = stopped(&mut stopping) => break,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        server.serve(stream).await;
                        drop(server);
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: let some connections end.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept_one(
        &self,
        listener: &TcpListener,
    ) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.connections).acquire_owned().await;
        let permit = permit.map_err(std::io::Error::other)?;
        let (stream, _address) = listener.accept().await?;
        Ok((stream, permit))
    }

    async fn serve(&self, stream: TcpStream) {
        // Answers are small and written whole: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.app.metrics.failed_handshakes.add();
                tracing::debug!("handshake: {error}");
                return;
            }
            Err(_) => {
                self.app.metrics.failed_handshakes.add();
                return;
            }
        };
        let (_, session) = stream.get_ref();
        let peer = match session.peer_certificates().and_then(<[_]>::first) {
            None => Peer::ANONYMOUS,
            Some(certificate) => match Peer::from_certificate(certificate) {
                Ok(peer) => peer,
                Err(error) => {
                    // Fail closed: it is somebody of ours, and may do nothing.
                    tracing::warn!("{error}");
                    Peer {
                        role: Role::None,
                        not_after: Some(Timestamp::MAX),
                    }
                }
            },
        };
        let _open = self.app.metrics.connections.enter();
        let idle = if peer.role == Role::None {
            ANONYMOUS_IDLE
        } else {
            KNOWN_IDLE
        };
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { answer.await.map_err(|never: Infallible| never) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_buf_size(usize::try_from(MAX_HEADER_OCTETS).unwrap_or(usize::MAX));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADER_OCTETS)
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = core::pin::pin!(connection);
        let mut stopping = self.app.stopping.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stopped(&mut stopping) => None,
            () = tokio::time::sleep(CONNECTION_LIFE) => None,
        };
        let ended = if let Some(ended) = ended {
            ended
        } else {
            connection.as_mut().graceful_shutdown();
            connection.await
        };
        if let Err(error) = ended {
            tracing::debug!("connection: {error}");
        }
    }
}
