//! What becomes of a request that is under way when the permit ends?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use medbind_core::deny::DenyCode;
use tokio::time::{Instant, timeout};

use super::real::Stage;
use super::report::Report;
use super::story::{
    LIMIT, case, ends, is_code, is_served, listen, new_device, open_socket, reading, slow_body,
};
use crate::client::{Protocol, drain};
use crate::wait::until;

/// The one that every line of Envoy tells.
pub async fn in_the_middle(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a device revoked in the middle of 100 requests is refused from then on",
        revoked_in_the_middle(stage)
    );
}

/// The others.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "an event stream is cut when the binding is suspended",
        events(stage, Protocol::Http1)
    );
    case!(
        report,
        "an event stream over HTTP/2 is cut, and the connection lives on",
        events(stage, Protocol::Http2)
    );
    case!(
        report,
        "an upload is cut when the binding is suspended",
        upload(stage)
    );
    case!(
        report,
        "a WebSocket is cut when the binding is suspended",
        socket(stage)
    );
}

async fn revoked_in_the_middle(stage: &mut Stage) -> Result<()> {
    // Over HTTP/2: where a request has a body, Envoy ends a connection of HTTP/1.1 with its refusal.
    let client = new_device(stage, "edge", "SN-HUNDRED")
        .await?
        .with_protocol(Protocol::Http2);
    let ask = reading("SN-HUNDRED");
    let mut connection = client.connect().await?;
    for number in 0..50 {
        let answer = connection.send(&ask).await?;
        is_served(&answer).with_context(|| format!("request {number}"))?;
    }
    stage.registry()?.act("acme:SN-HUNDRED", "revoke").await?;
    let start = Instant::now();
    let mut refused = 0;
    let mut served = 0;
    while refused < 50 {
        ensure!(
            start.elapsed() < LIMIT,
            "still served after {served} requests"
        );
        let answer = match connection.send(&ask).await {
            Ok(answer) => answer,
            // The one that was under way when the binding ended was cut, its connection was not.
            Err(_) if refused == 0 => {
                refused += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if answer.is_success() {
            ensure!(refused == 0, "served again after {refused} refusals");
            served += 1;
        } else {
            is_code(&answer, DenyCode::BindingRevoked)?;
            if refused == 0 {
                println!("      revoked to first refusal: {:.0?}", start.elapsed());
            }
            refused += 1;
        }
    }
    Ok(())
}

async fn events(stage: &mut Stage, protocol: Protocol) -> Result<()> {
    let serial = format!("SN-EVENTS-{protocol:?}");
    let client = new_device(stage, "edge", &serial)
        .await?
        .with_protocol(protocol);
    let cut = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    let mut connection = client.connect().await?;
    let body = listen(&mut connection, &serial, None).await?;
    let stream = tokio::spawn(drain(body));
    stage
        .registry()?
        .act(&format!("acme:{serial}"), "suspend")
        .await?;
    let start = Instant::now();
    let drained = timeout(LIMIT, stream)
        .await
        .context("the stream goes on")??;
    let (clean, now) = (drained.clean, jiff::Timestamp::now());
    println!(
        "      suspended to the last event: {:.0?}, to cut: {:.0?}",
        start
            .elapsed()
            .saturating_sub(now.duration_since(drained.last).unsigned_abs()),
        start.elapsed()
    );
    // Envoy 1.36 resets without an error (NO_ERROR), which reads like an end in order.
    let reads_like_an_end = protocol == Protocol::Http2 && stage.line < (1, 37);
    ensure!(
        clean == reads_like_an_end,
        "the stream came to a clean end: {clean}"
    );
    let counted = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    ensure!(counted > cut, "the cut was not counted");
    if protocol == Protocol::Http2 {
        is_code(
            &connection.send(&reading(&serial)).await?,
            DenyCode::BindingSuspended,
        )?;
    }
    Ok(())
}

async fn upload(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "edge", "SN-UPLOAD")
        .await?
        .with_protocol(Protocol::Http2);
    let seen = stage.upstream.count();
    let body = slow_body(Duration::MAX).boxed_unsync();
    let mut connection = client.connect().await?;
    let ask = reading("SN-UPLOAD");
    let sending = tokio::spawn(async move {
        let response = connection.start(&ask, body).await?;
        anyhow::Ok(response.status())
    });
    let upstream = &stage.upstream;
    until("the upload reaches the upstream", LIMIT, || async {
        (upstream.count() > seen).then_some(())
    })
    .await?;
    stage.registry()?.act("acme:SN-UPLOAD", "suspend").await?;
    let ended = timeout(LIMIT, sending)
        .await
        .context("the upload goes on")??;
    if let Ok(status) = ended {
        ensure!(!status.is_success(), "the upload was taken: {status}");
    }
    Ok(())
}

async fn socket(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "edge", "SN-SOCKET").await?;
    let mut stream = open_socket(&client, "SN-SOCKET").await?;
    stage.registry()?.act("acme:SN-SOCKET", "suspend").await?;
    ends(&mut stream).await
}
