//! How long does a revoked device go on being served?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_core::binding::BindingState;
use medbind_integration::certificate::Spec;
use medbind_integration::client::{Ask, Connection};
use medbind_integration::scenario::fleet::Device;
use medbind_integration::scenario::registry::Registry;
use medbind_workshop::progress::Progress;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::setting::{Setting, ready};
use crate::spread::quantile;
use crate::variant::ANSWERED;

/// The device's pause between two requests.
const BETWEEN: Duration = Duration::from_millis(2);
/// When a device that goes on being served is given up.
const LIMIT: Duration = Duration::from_secs(20);
/// Workers of Envoy.
const WORKERS: u32 = 2;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Revocation {
    /// How many devices were revoked.
    pub times: usize,
    /// Half of them were refused within this, in milliseconds.
    pub p50: f64,
    /// 99 of 100 of them were.
    pub p99: f64,
    /// All of them were.
    pub longest: f64,
    /// Milliseconds from the operator's call to the first refusal, one for each device.
    pub rounds: Vec<f64>,
}

/// Revokes `times` devices, one after the other, each while it sends requests on a connection that
/// it keeps.
pub async fn measure(setting: &Setting, times: u32) -> Result<Revocation> {
    let mut registry = Registry::start(&setting.tools).await?;
    let devices = (0..times).map(|number| Device {
        id: format!("acme:{}", serial(number)),
        state: BindingState::Active,
        expired: false,
        pinned: false,
    });
    let mut envoy = {
        let _progress = Progress::start("enrolling and claiming devices");
        registry.hold(&devices.collect::<Vec<_>>()).await?;
        let bootstrap = setting.answering_bootstrap(&registry)?;
        setting
            .envoy("revocation", &bootstrap, WORKERS, "warning")
            .await?
    };
    ready(&mut envoy, LIMIT).await?;
    let progress = Progress::steps("revocation to first refusal", u64::from(times));
    let mut rounds = Vec::new();
    for number in 0..times {
        let serial = serial(number);
        let identity = setting.site.device_ca.issue(&Spec::device(&serial))?;
        let client = setting
            .site
            .client(envoy.listener("edge")?, Some(&identity))?;
        let mut connection = client.connect().await?;
        let ask = Ask {
            authority: Some(ANSWERED.to_owned()),
            ..Ask::get(format!("/v1/devices/acme:{serial}/readings"))
        };
        let answer = connection.send(&ask).await?;
        ensure!(answer.status == 200, "not served: {}", answer.text());
        // Not in step with the ticks, in which the last refusal came.
        sleep(Duration::from_millis(rand::random::<u64>() % 100)).await;
        let start = Instant::now();
        let device = format!("acme:{serial}");
        let revoking = registry.act(&device, "revoke");
        let refused = timeout(LIMIT, refused(&mut connection, &ask, start));
        let (revoked, refused) = tokio::join!(revoking, refused);
        revoked?;
        let time = refused.with_context(|| format!("served for {LIMIT:?} after its end"))??;
        rounds.push(time.as_secs_f64() * 1000.0);
        progress.step();
    }
    Ok(Revocation {
        times: rounds.len(),
        p50: quantile(&rounds, 0.5)?,
        p99: quantile(&rounds, 0.99)?,
        longest: quantile(&rounds, 1.0)?,
        rounds,
    })
}

fn serial(number: u32) -> String {
    format!("SN-REVOKED-{number}")
}

/// Sends requests until one is refused as the device's is.
async fn refused(connection: &mut Connection, ask: &Ask, start: Instant) -> Result<Duration> {
    loop {
        let answer = connection.send(ask).await?;
        if answer.status != 200 {
            let code = answer.code();
            ensure!(
                code.as_deref() == Some("binding_revoked"),
                "refused for another reason: {} {code:?}",
                answer.status
            );
            return Ok(start.elapsed());
        }
        sleep(BETWEEN).await;
    }
}
