//! Who speaks on this session, and to whom? Resumed sessions, and requests for another server.

use anyhow::{Result, ensure};
use medbind_core::deny::DenyCode;
use rustls::SupportedProtocolVersion;

use super::real::{Stage, said};
use super::report::Report;
use super::story::{case, is_code, is_served, reading, wait_refused, wait_served};
use crate::certificate::Spec;
use crate::client::{Client, Protocol};

/// All of them.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a resumed session of TLS 1.2 is served",
        resumed(stage, &rustls::version::TLS12)
    );
    case!(
        report,
        "a resumed session of TLS 1.3 is served",
        resumed(stage, &rustls::version::TLS13)
    );
    case!(
        report,
        "a resumed session of a device that was revoked is refused",
        resumed_and_revoked(stage)
    );
    case!(
        report,
        "a request for another server name is misdirected",
        misdirected(stage)
    );
}

fn resumed_client(
    stage: &Stage,
    version: &'static SupportedProtocolVersion,
    serial: &str,
) -> Result<Client> {
    let site = &stage.world.site;
    let identity = site.device_ca.issue(&Spec::device(serial))?;
    stage
        .client("edge", None)?
        .with_tls(version, &site.infra_ca, Some(&identity))
}

async fn resumed(stage: &mut Stage, version: &'static SupportedProtocolVersion) -> Result<()> {
    let client = resumed_client(stage, version, "SN-A")?;
    let mut first = client.connect().await?;
    ensure!(!first.resumed, "the first session is no resumed one");
    is_served(&first.send(&reading("SN-A")).await?)?;
    // On each worker at least once, whichever takes the connection.
    for _ in 0..8 {
        let mut next = client.connect().await?;
        ensure!(next.resumed, "the session was not resumed");
        ensure!(!next.early_data, "early data was taken");
        is_served(&next.send(&reading("SN-A")).await?)?;
    }
    Ok(())
}

async fn resumed_and_revoked(stage: &mut Stage) -> Result<()> {
    stage.registry()?.hold_active("SN-RESUMED").await?;
    let client = resumed_client(stage, &rustls::version::TLS13, "SN-RESUMED")?;
    wait_served(&client, "SN-RESUMED").await?;
    stage.registry()?.act("acme:SN-RESUMED", "revoke").await?;
    // Each worker sees the change at its own next tick.
    wait_refused(&client, "SN-RESUMED", DenyCode::BindingRevoked).await?;
    let ask = reading("SN-RESUMED");
    let mut connection = client.connect().await?;
    ensure!(connection.resumed, "the session was not resumed");
    is_code(&connection.send(&ask).await?, DenyCode::BindingRevoked)
}

async fn misdirected(stage: &mut Stage) -> Result<()> {
    let mut ask = reading("SN-A");
    ask.authority = Some("other.example".to_owned());
    let client = stage.device("edge", "SN-A")?.with_protocol(Protocol::Http2);
    let answer = client.send(&ask).await?;
    ensure!(answer.status == 421, said(&answer, "it was to be 421"));
    Ok(())
}
