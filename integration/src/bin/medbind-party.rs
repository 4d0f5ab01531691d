//! The parties of the Compose stack that are not medbind: the device service and the device.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use medbind_integration::certificate::Identity;
use medbind_integration::server;
use medbind_integration::upstream::Upstream;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    party: Party,
}

#[derive(Subcommand)]
enum Party {
    /// Be the device service: say what was seen of each request
    DeviceService {
        /// Where to listen
        address: SocketAddr,
        /// The folder with cert.pem, key.pem, and the ca.pem of its clients
        #[arg(long)]
        credentials: PathBuf,
    },
    /// Be a device: send one request, print the answer as JSON; exit status 0 for a success, 1
    /// for a refusal, 2 where there was no answer
    Ask {
        /// https://name:port/path
        url: String,
        /// The method
        #[arg(long, default_value = "GET")]
        method: String,
        /// The file with the device's certificate, and those up to its CA
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        /// The file with its private key
        #[arg(long)]
        key: Option<PathBuf>,
        /// The file with the CA of the server
        #[arg(long)]
        ca: PathBuf,
        /// Connect here, whatever the name in the URL
        #[arg(long)]
        to: String,
        /// `name: value`
        #[arg(long = "header")]
        headers: Vec<String>,
    },
    /// Is this URL answered with 200?
    Healthy {
        /// The URL
        url: String,
        /// The file with the CA of the server
        #[arg(long)]
        ca: Option<PathBuf>,
    },
    /// Do nothing, until told to end
    Idle,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse().party).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(party: Party) -> Result<ExitCode> {
    match party {
        Party::DeviceService {
            address,
            credentials,
        } => {
            let identity = Identity::from_pem(
                &text(&credentials.join("cert.pem"))?,
                &text(&credentials.join("key.pem"))?,
            )?;
            let clients =
                CertificateDer::from_pem_slice(text(&credentials.join("ca.pem"))?.as_bytes())?;
            let tls = server::tls(&identity, &clients)?;
            let upstream = Upstream::serve(address, tls).await?;
            eprintln!("listening on https://{}", upstream.address());
            until_told().await?;
            Ok(ExitCode::SUCCESS)
        }
        Party::Ask {
            url,
            method,
            certificate,
            key,
            ca,
            to,
            headers,
        } => {
            let mut client = client(Some(&ca))?;
            if let (Some(certificate), Some(key)) = (certificate, key) {
                let pem = text(&certificate)? + &text(&key)?;
                client = client.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
            }
            let url = reqwest::Url::parse(&url)?;
            let name = url.host_str().context("the URL has no name")?.to_owned();
            let address = tokio::net::lookup_host(&to)
                .await
                .with_context(|| format!("cannot find {to}"))?
                .next()
                .with_context(|| format!("{to} has no address"))?;
            let mut request = client
                .resolve(&name, address)
                .build()?
                .request(method.parse()?, url);
            for header in &headers {
                let Some((name, value)) = header.split_once(": ") else {
                    bail!("--header takes `name: value`, not {header:?}");
                };
                request = request.header(name, value);
            }
            let answer = request.body("{}").send().await?;
            let status = answer.status();
            let body = answer.text().await?;
            let body = serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body));
            println!("{}", json!({"status": status.as_u16(), "body": body}));
            Ok(ExitCode::from(u8::from(!status.is_success())))
        }
        Party::Healthy { url, ca } => {
            let answer = client(ca.as_deref())?.build()?.get(&url).send().await?;
            let status = answer.status();
            let body = answer.text().await?;
            // What docker keeps of a health check, and a person reads.
            println!("{url}: {status} {}", body.trim());
            Ok(ExitCode::from(u8::from(!status.is_success())))
        }
        Party::Idle => {
            until_told().await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A client that trusts this CA, and without one nobody: a container has no list of public CAs, and
/// none of them has a say here.
fn client(ca: Option<&Path>) -> Result<reqwest::ClientBuilder> {
    let trusted = match ca {
        Some(ca) => reqwest::Certificate::from_pem_bundle(text(ca)?.as_bytes())?,
        None => Vec::new(),
    };
    Ok(reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .no_proxy()
        .tls_certs_only(trusted))
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

async fn until_told() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
