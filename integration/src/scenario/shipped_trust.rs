//! What does an Envoy with `http.yaml` do about the files that say who signs devices, where one
//! cannot be read as it starts, or where they are reached by a symbolic link that is turned?

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::report::Report;
use super::shipped::{Around, as_it_is};
use super::story::{LIMIT, case, reading};
use crate::bootstrap::{Bootstrap, DEVICE_CA, without};
use crate::certificate::{Identity, Spec};
use crate::client::{Answer, Client};
use crate::envoy::Envoy;
use crate::wait::until;

const UNREADABLE: &str =
    "http.yaml lets no device in where a CA or a list cannot be read at the start, until it can be";
const TURNED: &str =
    "http.yaml takes up the CAs, the lists and who names them when a symbolic link is turned";
const ENDED: &str =
    "http.yaml lets no device in whose CA has ended, until the CA's next certificate is there";

/// What is shown here.
pub(super) const NAMES: [&str; 3] = [UNREADABLE, TURNED, ENDED];

const CAS: &str = "device-ca.pem";
const LISTS: &str = "device-ca.crl.pem";
const GARBAGE: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";

/// All of them. Afterwards the files are what they were.
pub(super) async fn cases(around: &Around, report: &mut Report) {
    case!(report, UNREADABLE, and_back(around, unreadable(around)));
    case!(report, TURNED, and_back(around, turned(around)));
    case!(report, ENDED, and_back(around, ended(around)));
}

/// The files as they are good.
struct Good {
    trust: String,
    cas: String,
    lists: String,
}

impl Good {
    fn of(around: &Around) -> Result<Self> {
        let site = &around.site;
        Ok(Self {
            trust: Bootstrap::shipped_for(DEVICE_CA, site.folder())?,
            cas: site.device_ca.pem() + &site.other_ca.pem(),
            lists: lists(around, &[])?,
        })
    }

    fn files(&self) -> [(&'static str, &str); 3] {
        [
            (DEVICE_CA, &self.trust),
            (CAS, &self.cas),
            (LISTS, &self.lists),
        ]
    }
}

fn lists(around: &Around, revoked: &[&Identity]) -> Result<String> {
    let site = &around.site;
    Ok(site.device_ca.revocation_list(revoked)? + &site.other_ca.revocation_list(&[])?)
}

async fn and_back(around: &Around, story: impl Future<Output = Result<()>>) -> Result<()> {
    let outcome = story.await;
    for (name, text) in Good::of(around)?.files() {
        around.site.replace(name, text)?;
    }
    outcome
}

async fn served(client: &Client) -> Result<()> {
    until("the device is served", LIMIT, || async {
        client
            .send(&reading("SN-A"))
            .await
            .ok()
            .filter(Answer::is_success)
    })
    .await?;
    Ok(())
}

async fn refused(client: &Client) -> Result<()> {
    until("no handshake comes about", LIMIT, || async {
        client.send(&reading("SN-A")).await.err()
    })
    .await?;
    Ok(())
}

async fn unreadable(around: &Around) -> Result<()> {
    const REJECTED: &str = "envoy_sds_update_rejected";
    const NOT_READY: &str =
        "envoy_listener_server_ssl_socket_factory_downstream_context_secrets_not_ready";
    let good = Good::of(around)?;
    let identity = around.site.device_ca.issue(&Spec::device("SN-A"))?;
    for (name, instead) in [(CAS, None), (LISTS, None), (LISTS, Some(GARBAGE))] {
        let told = || format!("{name} with {instead:?}");
        // It says that it is ready.
        let envoy = around.start(as_it_is, |_| {
            fs::remove_file(around.site.folder().join(name))?;
            instead.map_or(Ok(()), |text| around.site.write(name, text))
        });
        let envoy = envoy.await.with_context(told)?;
        let device = around
            .site
            .client(envoy.listener("edge")?, Some(&identity))?;
        for _ in 0..3 {
            let answer = device.send(&reading("SN-A")).await;
            ensure!(answer.is_err(), "a device was answered, {}", told());
        }
        for counter in [REJECTED, NOT_READY] {
            let count = envoy.metric(counter, &[]).await?;
            ensure!(count > 0.5, "{counter} is {count}, {}", told());
        }
        let text = good.files().into_iter().find(|(file, _)| *file == name);
        let (_, text) = text.context("no such file")?;
        around.site.replace(name, text)?;
        served(&device).await.with_context(told)?;
    }
    Ok(())
}

/// As Kubernetes lays out what it mounts: each file is a link through `..data`, and what changes
/// is where that points.
fn turn(folder: &Path, number: u32, files: [(&str, &str); 3]) -> Result<()> {
    let inner = folder.join(format!("..{number}"));
    fs::create_dir(&inner)?;
    for (name, text) in files {
        fs::write(inner.join(name), text)?;
    }
    let beside = folder.join("..data_tmp");
    symlink(format!("..{number}"), &beside)?;
    Ok(fs::rename(beside, folder.join("..data"))?)
}

async fn turned(around: &Around) -> Result<()> {
    let folder = around.site.folder();
    let good = Good::of(around)?;
    let identity = around.site.device_ca.issue(&Spec::device("SN-A"))?;
    let listed = lists(around, &[&identity])?;
    let envoy: Envoy = around
        .start(as_it_is, |_| {
            turn(folder, 1, good.files())?;
            for (name, _) in good.files() {
                fs::remove_file(folder.join(name))?;
                symlink(format!("..data/{name}"), folder.join(name))?;
            }
            Ok(())
        })
        .await?;
    let edge = envoy.listener("edge")?;
    let device = around.site.client(edge, Some(&identity))?;
    served(&device).await?;
    let with_list = Good {
        lists: listed,
        ..Good::of(around)?
    };
    turn(folder, 2, with_list.files())?;
    refused(&device).await.context("by a new list")?;
    let unlisted = Good {
        trust: without(&with_list.trust, "crl")?,
        ..with_list
    };
    turn(folder, 3, unlisted.files())?;
    served(&device).await.context("by a new device-ca.yaml")?;
    let others = Good {
        cas: around.site.other_ca.pem(),
        ..unlisted
    };
    turn(folder, 4, others.files())?;
    refused(&device).await.context("by new CAs")
}

async fn ended(around: &Around) -> Result<()> {
    let good = Good::of(around)?;
    let site = &around.site;
    let identity = site.device_ca.issue(&Spec::device("SN-A"))?;
    let cas = site.device_ca.ended_pem()? + &site.other_ca.pem();
    let envoy = around.start(as_it_is, |_| site.write(CAS, &cas)).await?;
    let device = site.client(envoy.listener("edge")?, Some(&identity))?;
    // The device is told this of its own certificate, which has not ended.
    until("a handshake ends with the alert", LIMIT, || async {
        let error = device.send(&reading("SN-A")).await.err()?;
        format!("{error:#}")
            .contains("CertificateExpired")
            .then_some(())
    })
    .await?;
    ensure!(
        device.send(&reading("SN-A")).await.is_err(),
        "a device was answered"
    );
    site.replace(CAS, &good.cas)?;
    served(&device).await
}
