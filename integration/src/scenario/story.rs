//! What do scenarios with a story have in common?

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use medbind_core::deny::DenyCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::real::{Stage, said};
use crate::client::{Answer, Ask, Client, Connection};
use crate::site::EDGE;
use crate::wait::until;

/// A change is in force much sooner; this is when a scenario gives up.
pub const LIMIT: Duration = Duration::from_secs(10);

/// So many connections in a row reach every worker, as good as certainly.
const IN_A_ROW: usize = 12;

/// Runs a scenario, where it is asked for.
macro_rules! case {
    ($report:expr, $name:expr, $run:expr) => {
        if $report.wants($name) {
            $report.begin();
            let outcome = $run.await;
            $report.end($name, outcome);
        }
    };
}
pub(super) use case;

/// A device posts a reading of its own.
pub fn reading(serial: &str) -> Ask {
    Ask::post(format!("/v1/devices/acme:{serial}/readings"), "{}")
}

/// It was refused with this code.
pub fn is_code(answer: &Answer, code: DenyCode) -> Result<()> {
    let fits = answer.code().as_deref() == Some(code.as_str());
    ensure!(fits, said(answer, &format!("it was to be {code}")));
    Ok(())
}

/// It was served.
pub fn is_served(answer: &Answer) -> Result<()> {
    ensure!(answer.is_success(), said(answer, "it was not served"));
    Ok(())
}

/// Enrols a device for one scenario, and waits until it is served.
pub async fn new_device(stage: &mut Stage, listener: &str, serial: &str) -> Result<Client> {
    stage.registry()?.hold_active(serial).await?;
    let client = stage.device(listener, serial)?;
    wait_served(&client, serial).await?;
    Ok(client)
}

/// Waits until the device is served by every worker: by many connections in a row, since Envoy
/// gives each to one of them.
pub async fn wait_served(client: &Client, serial: &str) -> Result<Duration> {
    let ask = reading(serial);
    let first = until("the device is served", LIMIT, || async {
        client.send(&ask).await.ok().filter(Answer::is_success)
    });
    let (_, first) = first.await?;
    until("every worker serves the device", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            client.send(&ask).await.ok().filter(Answer::is_success)?;
        }
        Some(())
    })
    .await?;
    Ok(first)
}

/// Waits until every worker refuses the device with this code.
pub async fn wait_refused(client: &Client, serial: &str, code: DenyCode) -> Result<()> {
    let ask = reading(serial);
    until("every worker refuses the device", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            let answer = client.send(&ask).await.ok()?;
            is_code(&answer, code).ok()?;
        }
        Some(())
    })
    .await?;
    Ok(())
}

/// Opens the event stream of a device, shown this token where there is one.
pub async fn listen(
    connection: &mut Connection,
    serial: &str,
    token: Option<&str>,
) -> Result<Incoming> {
    let mut ask =
        Ask::get(format!("/v1/devices/acme:{serial}/events")).header("accept", "text/event-stream");
    if let Some(token) = token {
        ask = ask.header("authorization", &format!("Bearer {token}"));
    }
    let empty = Empty::new().map_err(|never: Infallible| match never {});
    let response = connection.start(&ask, empty.boxed_unsync()).await?;
    ensure!(
        response.status().is_success(),
        "the stream was refused: {}",
        response.status()
    );
    Ok(response.into_body())
}

/// A body that comes in small pieces, for this long.
pub fn slow_body(time: Duration) -> impl Body<Data = Bytes, Error = io::Error> + Send + 'static {
    let start = Instant::now();
    let pieces = futures_util::stream::unfold((), move |()| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (start.elapsed() < time).then(|| (Ok(Frame::data(Bytes::from_static(b"reading\n"))), ()))
    });
    StreamBody::new(pieces)
}

/// Opens a device's `WebSocket`, which echoes.
pub async fn open_socket(client: &Client, serial: &str) -> Result<TlsStream<TcpStream>> {
    open_socket_with(client, serial, "connection: upgrade\r\n").await
}

/// Opens a device's `WebSocket` by a request with these header lines, `connection` among them.
pub async fn open_socket_with(
    client: &Client,
    serial: &str,
    lines: &str,
) -> Result<TlsStream<TcpStream>> {
    let mut stream = client.connect_tls(b"http/1.1").await?;
    let head = format!(
        "GET /v1/devices/acme:{serial}/socket HTTP/1.1\r\nhost: {EDGE}\r\n{lines}\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\r\n\r\n") {
        let read = timeout(LIMIT, stream.read(&mut buffer)).await??;
        ensure!(read > 0, "the connection ended: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    ensure!(text.starts_with("HTTP/1.1 101"), "no upgrade: {text:?}");
    echoes(&mut stream).await?;
    Ok(stream)
}

/// It goes on.
pub async fn echoes(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let mut buffer = [0; 4];
    stream.write_all(b"echo").await?;
    timeout(LIMIT, stream.read_exact(&mut buffer))
        .await
        .context("no echo comes")??;
    ensure!(&buffer == b"echo", "another echo: {buffer:?}");
    Ok(())
}

/// It comes to its end.
pub async fn ends(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let mut buffer = [0; 64];
    match timeout(LIMIT, stream.read(&mut buffer))
        .await
        .context("the socket goes on")?
    {
        Ok(0) | Err(_) => Ok(()),
        Ok(read) => bail!(
            "the socket says {:?}",
            String::from_utf8_lossy(&buffer[..read])
        ),
    }
}
