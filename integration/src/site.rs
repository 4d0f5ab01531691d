//! One site: its certificates, its files, and the parts that run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use medbind_registry::role::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bootstrap::{Bootstrap, DEVICE_CA, set};
use crate::certificate::{Authority, Identity};
use crate::client::Client;
use crate::token::TokenIssuer;

/// The name of the edge in `envoy/http.yaml`.
pub const EDGE: &str = "edge.example";
/// The namespace of the first issuer in `envoy/http.yaml`.
pub const NAMESPACE: &str = "acme";

/// Certificates and files of one site.
pub struct Site {
    folder: TempDir,
    /// Signs the devices' certificates.
    pub device_ca: Authority,
    /// Another CA of devices, which the guard knows where a scenario says so.
    pub other_ca: Authority,
    /// A CA that nobody here knows.
    pub stranger_ca: Authority,
    /// Signs the certificates of the infrastructure.
    pub infra_ca: Authority,
    /// What the edge shows to the upstream and the registry.
    pub edge: Identity,
    /// Signs the tokens of accounts.
    pub tokens: TokenIssuer,
}

impl Site {
    /// Makes the certificates, and writes the files that `envoy/http.yaml` names.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("medbind-").tempdir()?;
        let infra_ca = Authority::new("medbind infrastructure")?;
        let server = infra_ca.issue_server(&[EDGE])?;
        let edge = infra_ca.issue_client(&Role::Edge(EDGE.parse()?))?;
        let site = Self {
            folder,
            device_ca: Authority::new("Acme devices")?,
            other_ca: Authority::new("Other devices")?,
            stranger_ca: Authority::new("Acme devices")?,
            edge,
            infra_ca,
            tokens: TokenIssuer::new()?,
        };
        site.write(
            "device-ca.pem",
            &(site.device_ca.pem() + &site.other_ca.pem()),
        )?;
        let lists = site.device_ca.revocation_list(&[])? + &site.other_ca.revocation_list(&[])?;
        site.write("device-ca.crl.pem", &lists)?;
        site.write(
            DEVICE_CA,
            &Bootstrap::shipped_for(DEVICE_CA, site.folder())?,
        )?;
        site.write("server/cert.pem", &server.pem())?;
        site.write("server/key.pem", &server.key_pem())?;
        site.write("edge/cert.pem", &site.edge.pem())?;
        site.write("edge/key.pem", &site.edge.key_pem())?;
        site.write("edge/ca.pem", &site.infra_ca.pem())?;
        site.write("jwks.json", &site.tokens.key_set())?;
        Ok(site)
    }

    /// The folder that stands for `/etc/medbind`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the site.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::write(path, text)?)
    }

    /// Puts a file in the place of another at once, as `mv` does.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let beside = format!("{name}.new");
        self.write(&beside, text)?;
        Ok(fs::rename(
            self.folder().join(beside),
            self.folder().join(name),
        )?)
    }

    /// `envoy/http.yaml` for this site: its files, its issuer, the addresses of its registry and
    /// upstream, and free ports. Nothing else is changed.
    pub fn bootstrap(
        &self,
        module: &Path,
        registry: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Bootstrap> {
        let mut bootstrap = Bootstrap::shipped("http.yaml")?;
        bootstrap.put_to(self.folder(), module)?;
        bootstrap.send_to("registry", registry)?;
        bootstrap.send_service_to(upstream)?;
        let pem = json!([self.device_ca.pem()]);
        for listener in ["edge", "probes"] {
            if let Some(issuer) = bootstrap.guard(listener)?.pointer_mut("/issuers/0") {
                set(issuer, "certificates", pem.clone())?;
            }
        }
        Ok(bootstrap)
    }

    /// An issuer for a guard's configuration.
    pub fn issuer(&self, namespace: &str, authorities: &[&Authority], identity: &Value) -> Value {
        let certificates = authorities
            .iter()
            .map(|authority| authority.pem())
            .collect::<Vec<_>>();
        json!({"namespace": namespace, "certificates": certificates, "identity": identity})
    }

    /// A caller of the edge.
    pub fn client(&self, edge: SocketAddr, identity: Option<&Identity>) -> Result<Client> {
        Client::new(edge, EDGE, &self.infra_ca, identity)
    }

    /// What the registry shows.
    pub fn registry_identity(&self) -> Result<Identity> {
        self.infra_ca
            .issue_server(&["registry", "localhost", "127.0.0.1"])
    }

    /// What the upstream shows.
    pub fn upstream_identity(&self) -> Result<Identity> {
        self.infra_ca.issue_server(&["device-service", "localhost"])
    }
}
