//! The real registry, run by `medbind serve`, with the operator's hand on it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_core::binding::BindingState;
use medbind_core::claim::{ClaimCode, ClaimSecret};
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fleet::{ACCOUNT, CLASS, Device, ENDED};
use crate::bootstrap::Bootstrap;
use crate::process::Process;
use crate::tools::{Tools, present};
use crate::wait::until;

/// How long a registry may take to start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// What a device is claimed with.
#[derive(Clone)]
pub struct Claim {
    /// Public, printed on it.
    pub code: String,
    /// Proves possession.
    pub secret: String,
}

/// A registry. Dropping it ends it.
pub struct Registry {
    process: Option<Process>,
    command: PathBuf,
    address: SocketAddr,
    client: Client,
    enrolled: u32,
    // Once nobody writes there any more.
    folder: TempDir,
}

impl Registry {
    /// Starts one with an empty data directory.
    pub async fn start(tools: &Tools) -> Result<Self> {
        let command = present(&tools.command, "cargo build --package medbind-cli")?.to_owned();
        let folder = tempfile::Builder::new()
            .prefix("medbind-registry-")
            .tempdir()?;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = serve(&command, folder.path(), anywhere).await?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client(&folder.path().join("operator"))?;
        Ok(Self {
            folder,
            command,
            address,
            process: Some(process),
            client,
            enrolled: 0,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it keeps its database, its certificates and keys.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Lets an Envoy speak to it as its edge.
    pub fn trust(&self, bootstrap: &mut Bootstrap) -> Result<()> {
        self.trust_at("registry", bootstrap)
    }

    /// Lets an Envoy speak to it by this cluster.
    pub fn trust_at(&self, cluster: &str, bootstrap: &mut Bootstrap) -> Result<()> {
        let edge = self.folder.path().join("edge");
        let file = |name: &str| json!({"filename": edge.join(name).to_string_lossy()});
        let context = bootstrap
            .cluster(cluster)?
            .pointer_mut("/transport_socket/typed_config/common_tls_context")
            .context("the registry's cluster has no TLS")?;
        for (place, name) in [
            ("/tls_certificates/0/certificate_chain", "cert.pem"),
            ("/tls_certificates/0/private_key", "key.pem"),
            ("/validation_context/trusted_ca", "ca.pem"),
        ] {
            *context.pointer_mut(place).context("a file is missing")? = file(name);
        }
        Ok(())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again, at the same address, with what it has on disk.
    pub async fn restart(&mut self) -> Result<()> {
        let (process, _) = serve(&self.command, self.folder.path(), self.address).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Enrols devices and brings them where they are to be.
    pub async fn hold(&mut self, devices: &[Device]) -> Result<Vec<Claim>> {
        let mut lines = String::new();
        let mut claims = Vec::new();
        for device in devices {
            let mut entropy = [0; 12];
            for (place, octet) in entropy.iter_mut().zip(self.enrolled.to_be_bytes()) {
                // A symbol holds five bits.
                *place = octet & 0x1f;
            }
            entropy[4] = u8::try_from(self.enrolled / 32 % 32)?;
            self.enrolled += 1;
            let code = ClaimCode::from_entropy(entropy);
            let secret = ClaimSecret::from_entropy([7; 20]);
            let line = json!({
                "device": device.id, "code": code, "secret_hash": secret.hash(), "class": CLASS,
                "pins": device.pins(), "expires_at": device.expired.then_some(ENDED),
            });
            let _ = writeln!(lines, "{line}");
            let secret = secret.reveal().to_string();
            claims.push((
                device,
                Claim {
                    code: code.to_string(),
                    secret,
                },
            ));
        }
        let request = self
            .request(Method::POST, "/v1/devices")
            .header("content-type", "application/x-ndjson")
            .body(lines);
        let answer = request.send().await?.error_for_status()?.text().await?;
        ensure!(
            !answer.contains("error"),
            "a device was not enrolled: {answer}"
        );
        for (device, Claim { code, secret }) in &claims {
            if device.state == BindingState::Unclaimed {
                continue;
            }
            self.request(Method::POST, "/v1/claims")
                .json(&json!({"code": code, "secret": secret, "account": ACCOUNT}))
                .send()
                .await?
                .error_for_status()
                .with_context(|| format!("claiming {}", device.id))?;
            match device.state {
                BindingState::Suspended => self.act(&device.id, "suspend").await?,
                BindingState::Revoked => self.act(&device.id, "revoke").await?,
                _ => {}
            }
        }
        Ok(claims.into_iter().map(|(_, claim)| claim).collect())
    }

    /// Enrols and claims one device that a scenario has for itself.
    pub async fn hold_active(&mut self, serial: &str) -> Result<Claim> {
        let device = Device {
            id: format!("acme:{serial}"),
            state: BindingState::Active,
            expired: false,
            pinned: false,
        };
        let claims = self.hold(&[device]).await?;
        claims.into_iter().next().context("nothing to claim")
    }

    /// `suspend`, `resume` or `revoke` a device.
    pub async fn act(&self, device: &str, verb: &str) -> Result<()> {
        let path = format!("/v1/devices/{device}/{verb}");
        let answer = self.request(Method::POST, &path).send().await?;
        answer
            .error_for_status()
            .with_context(|| format!("{verb} {device}"))?;
        Ok(())
    }

    /// What it has of a device.
    pub async fn show(&self, device: &str) -> Result<Value> {
        let path = format!("/v1/devices/{device}");
        Ok(self
            .request(Method::GET, &path)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url() + path)
    }
}

/// Starts `medbind serve` and waits until it listens; port 0 takes a free one. Gives where.
pub async fn serve(
    command: &Path,
    data: &Path,
    address: SocketAddr,
) -> Result<(Process, SocketAddr)> {
    let mut process = Process::start(
        Command::new(command)
            .args(["serve", "--json", "--data-dir"])
            .arg(data)
            .args(["--listen", &address.to_string()]),
    )?;
    let said = process.stdout.clone();
    let listening = until("the registry listens", START_LIMIT, || async {
        let line = said.find("\"address\"")?;
        let line: Value = serde_json::from_str(&line).ok()?;
        line.get("address")?.as_str()?.parse().ok()
    });
    let (address, _) = process.meanwhile(listening).await?;
    Ok((process, address))
}

fn client(credentials: &Path) -> Result<Client> {
    let read = |name: &str| {
        let path = credentials.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pair = [read("cert.pem")?, b"\n".to_vec(), read("key.pem")?].concat();
    Ok(Client::builder()
        .tls_certs_only(Certificate::from_pem_bundle(&read("ca.pem")?)?)
        .identity(Identity::from_pem(&pair)?)
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()?)
}
