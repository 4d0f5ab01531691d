//! What does the edge run with? Its files, and the configuration that is shipped.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use medbind_integration::bootstrap::{Bootstrap, DEVICE_CA, set};
use medbind_integration::certificate::Authority;
use medbind_integration::scenario::world::{add_listener, open};
use medbind_integration::site::EDGE;
use medbind_integration::token::TokenIssuer;
use medbind_integration::tools::Tools;
use serde_json::json;

/// How long known devices are served without a registry, here: short, so that the story is.
pub const MAX_STALE: Duration = Duration::from_secs(5);

/// What the edge needs of the site's certificates.
pub struct Edge<'a> {
    pub folder: &'a Path,
    pub device_ca: &'a Authority,
    pub infra: &'a Authority,
}

impl Edge<'_> {
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The files that `envoy/http.yaml` names.
    pub fn write_files(&self, registry: &Path) -> Result<()> {
        let server = self.infra.issue_server(&[EDGE])?;
        self.write("server/cert.pem", &server.pem())?;
        self.write("server/key.pem", &server.key_pem())?;
        for file in ["cert.pem", "key.pem", "ca.pem"] {
            let text = fs::read_to_string(registry.join("edge").join(file))?;
            self.write(&format!("edge/{file}"), &text)?;
        }
        self.write("device-ca.pem", &self.device_ca.pem())?;
        self.write("device-ca.crl.pem", &self.device_ca.revocation_list(&[])?)?;
        self.write(DEVICE_CA, &Bootstrap::shipped_for(DEVICE_CA, self.folder)?)?;
        self.write("jwks.json", &TokenIssuer::new()?.key_set())
    }

    /// `envoy/http.yaml` as it is shipped, with these files and addresses, a short `max_stale`, and
    /// a second listener that takes every certificate.
    pub fn bootstrap(
        &self,
        tools: &Tools,
        registry: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Bootstrap> {
        let mut bootstrap = Bootstrap::shipped("http.yaml")?;
        bootstrap.put_to(self.folder, &tools.module)?;
        bootstrap.send_to("registry", registry)?;
        bootstrap.send_service_to(upstream)?;
        let issuer = bootstrap
            .guard("edge")?
            .pointer_mut("/issuers/0")
            .context("no issuer")?;
        set(issuer, "certificates", json!([self.device_ca.pem()]))?;
        if tools.envoy_line()? < (1, 38) {
            // As the comment in http.yaml says.
            let http = bootstrap.http("edge")?;
            set(http, "forward_client_cert_details", json!("SANITIZE_SET"))?;
            set(
                http,
                "set_current_client_cert_details",
                json!({"cert": true}),
            )?;
        }
        let edge = bootstrap.listener("edge")?.clone();
        add_listener(&mut bootstrap, &edge, "open")?;
        open(&mut bootstrap, "open")?;
        let max_stale = json!({"max_stale": format!("{}s", MAX_STALE.as_secs())});
        for listener in ["edge", "open", "probes"] {
            set(bootstrap.guard(listener)?, "bindings", max_stale.clone())?;
        }
        set(bootstrap.synchroniser()?, "bindings", max_stale)?;
        let guard = serde_json::to_string_pretty(bootstrap.guard("edge")?)?;
        self.write("guard.json", &guard)?;
        Ok(bootstrap)
    }
}
