//! What do the measurements stand on? The programs, the certificates, and how an Envoy becomes
//! ready.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use medbind_integration::bootstrap::Bootstrap;
use medbind_integration::envoy::{Envoy, Options, get};
use medbind_integration::scenario::registry::Registry;
use medbind_integration::site::Site;
use medbind_integration::tools::{Tools, present};
use medbind_integration::wait::until;

use crate::variant::answered_by_envoy;

/// The programs and the certificates.
pub struct Setting {
    /// Programs and modules.
    pub tools: Tools,
    /// The module that does nothing.
    pub empty_module: PathBuf,
    /// Certificates and files.
    pub site: Site,
}

impl Setting {
    /// Finds the programs and makes the certificates.
    pub fn new() -> Result<Self> {
        let tools = Tools::find()?;
        present(&tools.envoy, "cargo xtask envoy")?;
        present(&tools.module, "cargo xtask bench")?;
        present(&tools.command, "cargo xtask bench")?;
        let empty_module = std::env::var_os("MEDBIND_EMPTY_MODULE").map(PathBuf::from);
        let empty_module = empty_module.context("MEDBIND_EMPTY_MODULE is not set")?;
        present(&empty_module, "cargo xtask bench")?;
        Ok(Self {
            tools,
            empty_module,
            site: Site::new()?,
        })
    }

    /// `envoy/http.yaml` with this registry, and a device service at this address.
    pub fn bootstrap(&self, registry: &Registry, upstream: SocketAddr) -> Result<Bootstrap> {
        let module = &self.tools.module;
        let mut bootstrap = self.site.bootstrap(module, registry.address(), upstream)?;
        registry.trust(&mut bootstrap)?;
        Ok(bootstrap)
    }

    /// The same for measurements in which Envoy answers by itself, under a name of its own: nobody
    /// listens where its upstream would be.
    pub fn answering_bootstrap(&self, registry: &Registry) -> Result<Bootstrap> {
        let mut bootstrap = self.bootstrap(registry, ([127, 0, 0, 1], 9).into())?;
        answered_by_envoy(&mut bootstrap)?;
        Ok(bootstrap)
    }

    /// Starts an Envoy, which logs what is this loud. Its files are kept under `name`.
    pub async fn envoy(
        &self,
        name: &str,
        bootstrap: &Bootstrap,
        workers: u32,
        log_level: &str,
    ) -> Result<Envoy> {
        let folder = self.site.folder().join(name);
        std::fs::create_dir_all(&folder)?;
        let options = Options {
            workers,
            log_level: log_level.to_owned(),
            ..Options::default()
        };
        Envoy::start(&self.tools.envoy, bootstrap, &folder, &options)
            .await
            .with_context(|| format!("the Envoy {name}"))
    }
}

/// Waits until the guard says that it can decide.
pub async fn ready(envoy: &mut Envoy, limit: Duration) -> Result<()> {
    let probes = envoy.listener("probes")?;
    let waited = until("the guard can decide", limit, || async {
        let (status, _) = get(probes, "/ready").await.ok()?;
        (status == 200).then_some(())
    })
    .await;
    envoy.process.check()?;
    waited.with_context(|| envoy.process.stderr.tail(15))?;
    Ok(())
}
