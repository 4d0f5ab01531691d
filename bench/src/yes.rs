//! A server that says yes at once, whatever it is asked: the least that a service can cost.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

const YES: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The running server. Dropping it stops it.
pub struct Yes {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Yes {
    /// Starts it on loopback, with this TLS where there is any.
    pub async fn start(tls: Option<ServerConfig>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    match tls {
                        None => answer(stream).await,
                        Some(tls) => answer(tls.accept(stream).await?).await,
                    }
                });
            }
        });
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Yes {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers the requests of one connection, which have no body.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            received.drain(..end + 4);
            stream.write_all(YES).await?;
            stream.flush().await?;
        }
    }
}
