//! Does a certificate in `x-forwarded-client-cert` make anybody a device? Under each setting of
//! Envoy, and in each way to read it.

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::json;

use super::real::Stage;
use super::report::Report;
use super::story::{case, is_code, is_served, reading};
use super::world::{World, add_listener};
use crate::bootstrap::{Bootstrap, set};
use crate::certificate::Spec;

/// The settings of Envoy for `x-forwarded-client-cert`.
const FORWARDING: [&str; 5] = [
    "SANITIZE",
    "FORWARD_ONLY",
    "APPEND_FORWARD",
    "SANITIZE_SET",
    "ALWAYS_FORWARD_ONLY",
];

/// All of them.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a forged certificate header counts for nothing, whatever Envoy does with it",
        forwarded(stage)
    );
}

/// Changes the bootstrap of the fleet's Envoy: a listener for each way to forward certificates.
pub fn listeners(bootstrap: &mut Bootstrap) -> Result<()> {
    let edge = bootstrap.listener("edge")?.clone();
    for details in FORWARDING {
        for source in ["auto", "forwarded_header"] {
            let name = format!("{details}-{source}");
            add_listener(bootstrap, &edge, &name)?;
            let manager = bootstrap.http(&name)?;
            set(manager, "forward_client_cert_details", json!(details))?;
            set(
                manager,
                "set_current_client_cert_details",
                json!({"cert": true}),
            )?;
            set(bootstrap.guard(&name)?, "certificate_source", json!(source))?;
        }
    }
    Ok(())
}

async fn forwarded(stage: &mut Stage) -> Result<()> {
    let site = &stage.world.site;
    let victim = site.device_ca.issue(&Spec::device("SN-B"))?;
    let header = World::forwarded(&victim);
    for details in FORWARDING {
        for source in ["auto", "forwarded_header"] {
            let name = format!("{details}-{source}");
            let told = || format!("with {details} and certificate_source {source}");
            let forged = |serial: &str| reading(serial).header("x-forwarded-client-cert", &header);
            let nobody = stage.client(&name, None)?;
            let answer = nobody.send(&forged("SN-B")).await?;
            is_code(&answer, DenyCode::NoPeerCertificate).with_context(told)?;
            let device = stage.device(&name, "SN-A")?;
            let answer = device.send(&forged("SN-B")).await?;
            ensure!(!answer.is_success(), "the victim was served {}", told());
            let answer = device.send(&forged("SN-A")).await?;
            let given = stage.line >= (1, 38) && source == "auto"
                || matches!(details, "SANITIZE_SET" | "APPEND_FORWARD");
            if given {
                is_served(&answer).with_context(told)?;
                let saw = answer.saw().context("nothing was seen")?;
                let device = saw.one("x-medbind-device");
                ensure!(device == Some("acme:SN-A"), "it was {device:?} {}", told());
                let forwarded = saw.all("x-forwarded-client-cert");
                ensure!(
                    forwarded.is_empty(),
                    "the upstream saw {forwarded:?} {}",
                    told()
                );
            } else {
                is_code(&answer, DenyCode::Internal).with_context(told)?;
            }
        }
    }
    Ok(())
}
