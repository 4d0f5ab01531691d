//! What does a revocation list do while it is in force, when it is renewed, when it has ended, and
//! when it cannot be read?

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;

use super::real::Stage;
use super::report::Report;
use super::story::{LIMIT, case, is_code, is_served, reading};
use crate::certificate::Spec;
use crate::client::{Answer, Ask, Client, Protocol};
use crate::wait::until;

/// So many connections in a row reach every worker, as good as certainly.
const IN_A_ROW: usize = 12;

/// All of them. Afterwards the list is what it was.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a certificate on the revocation list is refused in the handshake",
        on_the_list(stage)
    );
    case!(
        report,
        "a renewed revocation list is in force without a restart",
        and_back(stage, renewed(stage))
    );
    case!(
        report,
        "a revocation list that has ended refuses every device of its CA until it is renewed",
        and_back(stage, ended(stage))
    );
    case!(
        report,
        "a revocation list that cannot be read leaves the old one in force",
        and_back(stage, broken(stage))
    );
    case!(
        report,
        "a file without a revocation list refuses every device",
        and_back(stage, missing(stage))
    );
}

/// Puts the list back that was there before, whatever the outcome.
async fn and_back(stage: &Stage, story: impl Future<Output = Result<()>>) -> Result<()> {
    let outcome = story.await;
    stage.world.revoke(&[&stage.on_the_list])?;
    let device = stage.device("edge", "SN-A")?;
    let ((), time) = served(&device).await?;
    println!("      a good list put back to served: {time:.0?}");
    outcome
}

async fn served(client: &Client) -> Result<((), std::time::Duration)> {
    let ask = reading("SN-A");
    until("the device is served", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            client.send(&ask).await.ok().filter(Answer::is_success)?;
        }
        Some(())
    })
    .await
}

/// Waits until no handshake of this client comes about, and one has ended with this alert.
async fn refused(client: &Client, ask: &Ask, alert: &str) -> Result<std::time::Duration> {
    // The alert may be lost where the client is still writing.
    let ((), time) = until(&format!("a handshake ends with {alert}"), LIMIT, || async {
        let error = client.send(ask).await.err()?;
        format!("{error:#}").contains(alert).then_some(())
    })
    .await?;
    for _ in 0..IN_A_ROW {
        ensure!(client.send(ask).await.is_err(), "it was answered again");
    }
    Ok(time)
}

async fn on_the_list(stage: &Stage) -> Result<()> {
    let client = stage.client("edge", Some(&stage.on_the_list))?;
    refused(&client, &reading("SN-A"), "CertificateRevoked").await?;
    // The guard alone does not read the list: the same certificate elsewhere shows that the list
    // it was.
    let open = stage.client("open", Some(&stage.on_the_list))?;
    is_served(&open.send(&reading("SN-A")).await?)
}

async fn renewed(stage: &Stage) -> Result<()> {
    let stolen = stage.world.site.device_ca.issue(&Spec::device("SN-A"))?;
    let client = stage.client("edge", Some(&stolen))?;
    let client = client.with_protocol(Protocol::Http2);
    let ask = reading("SN-A");
    let mut before = client.connect().await?;
    is_served(&before.send(&ask).await?)?;
    ensure!(client.connect().await?.resumed, "no session to resume");
    stage.world.revoke(&[&stage.on_the_list, &stolen])?;
    // It tries to resume each time.
    let time = refused(&client, &ask, "CertificateRevoked").await?;
    println!("      renewed list put in place to first refusal: {time:.0?}");
    served(&stage.device("edge", "SN-A")?).await?;
    // A list is looked at in a handshake, and nowhere else.
    is_served(&before.send(&ask).await?).context("on a connection from before")
}

async fn ended(stage: &Stage) -> Result<()> {
    const COUNTER: &str = "envoy_listener_ssl_fail_verify_error";
    let device = stage.device("edge", "SN-A")?;
    served(&device).await?;
    let counted = stage.envoy.metric(COUNTER, &[]).await?;
    let list = stage
        .world
        .site
        .device_ca
        .revocation_list_until(&[], -3600)?;
    stage.world.publish(&list)?;
    // The device is told this of its own certificate, which has not ended.
    let time = refused(&device, &reading("SN-A"), "CertificateExpired").await?;
    println!("      list that has ended to first refusal: {time:.0?}");
    let now = stage.envoy.metric(COUNTER, &[]).await?;
    ensure!(now > counted, "{COUNTER} does not count it");
    let nobody = stage.client("edge", None)?;
    is_code(
        &nobody.send(&reading("SN-A")).await?,
        DenyCode::NoPeerCertificate,
    )?;
    let other = stage.world.site.other_ca.issue(&Spec::device("SN-A"))?;
    let other = stage.client("edge", Some(&other))?;
    let ask = Ask::post("/v1/devices/other:SN-A/readings", "{}");
    is_served(&other.send(&ask).await?).context("a device of a CA whose list is good")
}

async fn broken(stage: &Stage) -> Result<()> {
    const COUNTER: &str = "envoy_sds_key_rotation_failed";
    let counted = stage.envoy.metric(COUNTER, &[]).await?;
    let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    stage.world.publish(list)?;
    until("the mistake is counted", LIMIT, || async {
        let now = stage.envoy.metric(COUNTER, &[]).await.ok()?;
        (now > counted).then_some(())
    })
    .await?;
    served(&stage.device("edge", "SN-A")?).await?;
    on_the_list(stage).await
}

/// What holds no list at all is read, and is one less than there has to be.
async fn missing(stage: &Stage) -> Result<()> {
    let device = stage.device("edge", "SN-A")?;
    stage.world.publish("nothing\n")?;
    refused(&device, &reading("SN-A"), "UnknownCA").await?;
    Ok(())
}
