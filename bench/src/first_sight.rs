//! What does it cost to see a certificate for the first time?

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use medbind_integration::certificate::{Identity, Spec};
use medbind_integration::envoy::Envoy;
use medbind_integration::scenario::registry::Registry;
use medbind_workshop::progress::Progress;
use serde::Serialize;

use crate::load::ask;
use crate::processor;
use crate::setting::{Setting, ready};
use crate::spread::Spread;
use crate::variant::{ANSWERED, PATH};

/// Connections of each kind in one round.
const CONNECTIONS: usize = 40;
/// How long the guard may take until it can decide.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What was measured. A connection is a whole TLS handshake and one request.
#[derive(Clone, Debug, Serialize)]
pub struct FirstSight {
    /// Connections of each kind in one round.
    pub connections: usize,
    /// Microseconds of Envoy's processor time for a connection with a certificate that the worker
    /// knows.
    pub known: Spread,
    /// The same with one that it has never seen, of the same device.
    pub new: Spread,
    /// What the second costs more, of the same round.
    pub added: Spread,
    /// Known and new, round by round.
    pub rounds: Vec<(f64, f64)>,
}

/// Measures `rounds` rounds.
///
/// Both kinds of connection cost Envoy the same handshake: it verifies the chain anew on each. What
/// is between them is the guard's: the certificate is handed over, parsed, its issuer found, its
/// signature verified by the host, and remembered. The binding is known to both.
pub async fn measure(setting: &Setting, rounds: u32) -> Result<FirstSight> {
    let mut registry = Registry::start(&setting.tools).await?;
    registry.hold_active("SN-BENCH").await?;
    let bootstrap = setting.answering_bootstrap(&registry)?;
    let mut envoy = setting
        .envoy("first-sight", &bootstrap, 1, "warning")
        .await?;
    ready(&mut envoy, READY_LIMIT).await?;
    let known = [setting.site.device_ca.issue(&Spec::device("SN-BENCH"))?];
    // What is compiled at the first call, and the known certificate's own first sight.
    round(setting, &envoy, &known).await?;
    round(setting, &envoy, &new(setting)?).await?;
    let verified = verifications(&envoy).await?;
    let progress = Progress::steps("first sight of a certificate", u64::from(rounds));
    let mut measured = Vec::new();
    for number in 0..rounds {
        let strangers = new(setting)?;
        let (of_known, of_new) = if number % 2 == 0 {
            let of_known = round(setting, &envoy, &known).await?;
            (of_known, round(setting, &envoy, &strangers).await?)
        } else {
            let of_new = round(setting, &envoy, &strangers).await?;
            (round(setting, &envoy, &known).await?, of_new)
        };
        measured.push((of_known, of_new));
        progress.step();
    }
    let expected = f64::from(rounds) * crate::spread::number(CONNECTIONS);
    let verified = verifications(&envoy).await? - verified;
    ensure!(
        (verified - expected).abs() < 0.5,
        "{verified} certificates were verified by the host, and {expected} were new"
    );
    let spread =
        |of: fn(&(f64, f64)) -> f64| Spread::of(&measured.iter().map(of).collect::<Vec<_>>());
    Ok(FirstSight {
        connections: CONNECTIONS,
        known: spread(|round| round.0)?,
        new: spread(|round| round.1)?,
        added: spread(|round| round.1 - round.0)?,
        rounds: measured,
    })
}

/// Certificates of the device that nobody has seen, each with a key of its own.
fn new(setting: &Setting) -> Result<Vec<Identity>> {
    (0..CONNECTIONS)
        .map(|_| setting.site.device_ca.issue(&Spec::device("SN-BENCH")))
        .collect()
}

/// Certificates whose signature the host has checked for the guard.
async fn verifications(envoy: &Envoy) -> Result<f64> {
    envoy
        .metric("medbind_verifications", &["verifier=\"host\""])
        .await
}

/// Microseconds of processor time for each connection. Each is a client of its own, so that no
/// session is resumed.
async fn round(setting: &Setting, envoy: &Envoy, identities: &[Identity]) -> Result<f64> {
    let edge = envoy.listener("edge")?;
    let clients = identities.iter().cycle().take(CONNECTIONS);
    let clients = clients.map(|identity| setting.site.client(edge, Some(identity)));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let request = format!("POST {PATH} HTTP/1.1\r\nhost: {ANSWERED}\r\ncontent-length: 0\r\n\r\n");
    let before = processor::time(envoy.process.id())?;
    let asking = clients.iter().map(|client| async {
        let mut connection = client.connect_tls(b"http/1.1").await?;
        ask(&mut connection, request.as_bytes()).await?;
        anyhow::Ok(connection)
    });
    let connections = try_join_all(asking).await?;
    let spent = processor::time(envoy.process.id())?.saturating_sub(before);
    drop(connections);
    Ok(spent.as_secs_f64() * 1e6 / crate::spread::number(CONNECTIONS))
}
