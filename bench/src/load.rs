//! How are requests sent, many of them, on connections that stay?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use medbind_integration::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// When a burst that hangs is given up.
const LIMIT: Duration = Duration::from_mins(1);
/// More than any answer here has.
const MOST_OCTETS: usize = 4 << 10;

/// Connections of one device. Each has one request under way at a time.
pub struct Load {
    connections: Vec<TlsStream<TcpStream>>,
    request: Vec<u8>,
}

impl Load {
    /// Opens connections; on each the same request will be sent.
    pub async fn open(client: &Client, connections: usize, request: Vec<u8>) -> Result<Self> {
        let opening = (0..connections).map(|_| client.connect_tls(b"http/1.1"));
        Ok(Self {
            connections: try_join_all(opening).await?,
            request,
        })
    }

    /// Sends so many requests on each connection. All must be answered with 200.
    pub async fn burst(&mut self, each: u32) -> Result<()> {
        let request = self.request.as_slice();
        let all = self.connections.iter_mut().map(|connection| async move {
            for _ in 0..each {
                ask(connection, request).await?;
            }
            anyhow::Ok(())
        });
        timeout(LIMIT, try_join_all(all))
            .await
            .context("the requests were not answered in time")??;
        Ok(())
    }
}

/// Sends a request and reads the head of its answer, which has no body.
pub async fn ask(connection: &mut TlsStream<TcpStream>, request: &[u8]) -> Result<()> {
    connection.write_all(request).await?;
    connection.flush().await?;
    let mut buffer = [0; MOST_OCTETS];
    let mut length = 0;
    while !buffer[..length].ends_with(b"\r\n\r\n") {
        let read = connection.read(&mut buffer[length..]).await?;
        ensure!(
            read > 0,
            "the connection ended: {}",
            text(&buffer[..length])
        );
        length += read;
    }
    let head = &buffer[..length];
    ensure!(
        head.starts_with(b"HTTP/1.1 200 "),
        "not served: {}",
        text(head)
    );
    Ok(())
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
