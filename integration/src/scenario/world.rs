//! In which world does a scenario happen? The certificates, and the bootstrap of Envoy that both
//! runners read: the shipped one, and beside its listener those that a scenario needs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::row::{Listener, Peer, Place, Scenario, Signer};
use crate::bootstrap::{Bootstrap, remove, set};
use crate::certificate::{Authority, HW_TYPE, Identity, Spec};
use crate::site::{NAMESPACE, Site};

/// The addresses that a bootstrap needs.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Of the registry.
    pub registry: SocketAddr,
    /// Of the device service.
    pub upstream: SocketAddr,
}

/// Everybody's certificates.
pub struct World {
    /// The certificates and files of the site.
    pub site: Site,
    /// The CA that takes over from the site's first.
    pub next_ca: Authority,
}

impl World {
    /// Makes the certificates.
    pub fn new() -> Result<Self> {
        let world = Self {
            site: Site::new()?,
            next_ca: Authority::new("Acme devices 2")?,
        };
        let site = &world.site;
        let all = site.device_ca.pem() + &world.next_ca.pem() + &site.other_ca.pem();
        site.write("device-ca.pem", &all)?;
        world.revoke(&[])?;
        Ok(world)
    }

    /// Puts revocation lists in place that name these certificates of the first CA.
    pub fn revoke(&self, revoked: &[&Identity]) -> Result<()> {
        self.publish(&self.site.device_ca.revocation_list(revoked)?)
    }

    /// Puts this revocation list of the first CA in place, and good ones of the others.
    pub fn publish(&self, list: &str) -> Result<()> {
        let others =
            self.next_ca.revocation_list(&[])? + &self.site.other_ca.revocation_list(&[])?;
        self.site
            .replace("device-ca.crl.pem", &(list.to_owned() + &others))
    }

    /// The certificate that a caller shows.
    pub fn identity(&self, peer: &Peer) -> Result<Option<Identity>> {
        let Peer::Shows(signer, spec) = peer else {
            return Ok(None);
        };
        let identity = match signer {
            Signer::Acme => self.site.device_ca.issue(spec),
            Signer::AcmeNext => self.next_ca.issue(spec),
            Signer::Other => self.site.other_ca.issue(spec),
            Signer::Namesake => self.site.stranger_ca.issue(spec),
            Signer::Forger => self.site.device_ca.forge(spec),
        };
        Ok(Some(identity?))
    }

    /// What `x-forwarded-client-cert` would hold of this certificate, were it the peer's.
    pub fn forwarded(identity: &Identity) -> String {
        let mut text = format!("Hash={};Cert=\"", identity.digest());
        for octet in identity.leaf_pem().bytes() {
            if octet.is_ascii_alphanumeric() {
                text.push(char::from(octet));
            } else {
                let _ = write!(text, "%{octet:02X}");
            }
        }
        text + "\""
    }

    /// The header fields that a row sends, but its token and those of its protocol.
    pub fn headers(&self, row: &Scenario) -> Result<Vec<(String, String)>> {
        let mut headers = row
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Vec<_>>();
        if let Some(serial) = row.claims {
            let victim = self.site.device_ca.issue(&Spec::device(serial))?;
            let value = Self::forwarded(&victim);
            headers.push(("x-forwarded-client-cert".to_owned(), value));
        }
        Ok(headers)
    }

    /// The bootstrap of a place.
    pub fn bootstrap(
        &self,
        place: Place,
        line: (u32, u32),
        module: &Path,
        addresses: Addresses,
    ) -> Result<Bootstrap> {
        let Addresses { registry, upstream } = addresses;
        let mut bootstrap = self.site.bootstrap(module, registry, upstream)?;
        self.equip(&mut bootstrap, line)?;
        Self::settle(&mut bootstrap, place)?;
        let edge = bootstrap.listener("edge")?.clone();
        for listener in Listener::ALL {
            if listener != Listener::Edge {
                add_listener(&mut bootstrap, &edge, listener.name())?;
                open(&mut bootstrap, listener.name())?;
            }
        }
        set(bootstrap.guard("shadow")?, "mode", json!("shadow"))?;
        let names = json!([
            {"source": "san.uri", "template": "urn:dev:ops:32473-{serial}"},
            {"source": "san.dns", "template": "{serial}.devices.acme.example"},
        ]);
        let picky = bootstrap.guard("picky")?;
        let issuers = json!([self.site.issuer(NAMESPACE, &[&self.site.device_ca], &names)]);
        set(picky, "issuers", issuers)?;
        let keys = json!({"types": ["p256", "rsa"], "min_rsa_bits": 3072});
        set(picky, "key_policy", keys)?;
        let misread = bootstrap.guard("misread")?;
        set(misread, "certificate_source", json!("forwarded_header"))?;
        set(
            bootstrap.http("misread")?,
            "forward_client_cert_details",
            json!("SANITIZE"),
        )?;
        Ok(bootstrap)
    }

    /// Issuers and rules of the scenarios, and trailers for who is spoken to by HTTP/1.1.
    fn equip(&self, bootstrap: &mut Bootstrap, line: (u32, u32)) -> Result<()> {
        let site = &self.site;
        let identity = json!([
            {"source": "subject.serial_number"},
            {"source": "san.hardware_module_name", "hw_type": HW_TYPE},
        ]);
        let issuers = json!([
            site.issuer(NAMESPACE, &[&site.device_ca, &self.next_ca], &identity),
            site.issuer("other", &[&site.other_ca], &identity),
        ]);
        let guard = bootstrap.guard("edge")?;
        set(guard, "issuers", issuers)?;
        let rules = guard.get_mut("rules").and_then(Value::as_array_mut);
        rules
            .context("a guard without rules")?
            .push(json!({"path": "/v1/account", "principals": ["account"]}));
        if line < (1, 38) {
            let manager = bootstrap.http("edge")?;
            set(
                manager,
                "forward_client_cert_details",
                json!("SANITIZE_SET"),
            )?;
            set(
                manager,
                "set_current_client_cert_details",
                json!({"cert": true}),
            )?;
        }
        let options = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
        }});
        set(
            bootstrap.cluster("device_service_http1")?,
            "typed_extension_protocol_options",
            options,
        )
    }

    fn settle(bootstrap: &mut Bootstrap, place: Place) -> Result<()> {
        match place {
            Place::Fleet | Place::Script => {}
            Place::NoSynchroniser => {
                remove(bootstrap.value_mut(), "bootstrap_extensions");
                for listener in ["edge", "probes"] {
                    remove(bootstrap.guard(listener)?, "registry");
                }
            }
            Place::Stale => {
                let bindings = json!({"max_stale": "3s"});
                set(bootstrap.synchroniser()?, "bindings", bindings.clone())?;
                for listener in ["edge", "probes"] {
                    set(bootstrap.guard(listener)?, "bindings", bindings.clone())?;
                }
            }
            Place::OnDemand => {
                let bindings =
                    json!({"preload": false, "capacity": 1000, "lookup_timeout": "250ms"});
                set(bootstrap.synchroniser()?, "bindings", bindings.clone())?;
                for listener in ["edge", "probes"] {
                    set(bootstrap.guard(listener)?, "bindings", bindings.clone())?;
                }
            }
        }
        Ok(())
    }
}

/// One listener more, like another.
pub fn add_listener(bootstrap: &mut Bootstrap, like: &Value, name: &str) -> Result<()> {
    let mut listener = like.clone();
    set(&mut listener, "name", json!(name))?;
    let listeners = bootstrap
        .value_mut()
        .pointer_mut("/static_resources/listeners");
    let listeners = listeners.and_then(Value::as_array_mut);
    listeners.context("no listeners")?.push(listener);
    set(bootstrap.http(name)?, "stat_prefix", json!(name))
}

/// Takes from a listener all that Envoy does before the guard, so that the guard is alone; lets it
/// take trailers; and speaks HTTP/1.1 to the upstream, where more of what a client sends goes on.
pub fn open(bootstrap: &mut Bootstrap, name: &str) -> Result<()> {
    let common = bootstrap.tls(name)?.get_mut("common_tls_context");
    let common = common.context("no common_tls_context")?;
    let source = common
        .pointer(
            "/combined_validation_context/validation_context_sds_secret_config/sds_config/\
             path_config_source/path",
        )
        .and_then(Value::as_str);
    let folder = source.and_then(|path| Path::new(path).parent());
    let trusted = folder.context("nobody is trusted")?.join("device-ca.pem");
    remove(common, "combined_validation_context");
    let context = json!({
        "trusted_ca": {"filename": trusted.to_string_lossy()},
        "trust_chain_verification": "ACCEPT_UNTRUSTED",
    });
    set(common, "validation_context", context)?;
    let parameters = bootstrap
        .tls(name)?
        .pointer_mut("/common_tls_context/tls_params");
    // Those that Envoy offers by itself, and Ed25519.
    set(
        parameters.context("no parameters of TLS")?,
        "signature_algorithms",
        json!([
            "ecdsa_secp256r1_sha256",
            "rsa_pss_rsae_sha256",
            "rsa_pkcs1_sha256",
            "ecdsa_secp384r1_sha384",
            "rsa_pss_rsae_sha384",
            "rsa_pkcs1_sha384",
            "rsa_pss_rsae_sha512",
            "rsa_pkcs1_sha512",
            "ed25519",
        ]),
    )?;
    let manager = bootstrap.http(name)?;
    set(manager, "normalize_path", json!(false))?;
    set(
        manager,
        "path_with_escaped_slashes_action",
        json!("KEEP_UNCHANGED"),
    )?;
    set(
        manager,
        "http_protocol_options",
        json!({"enable_trailers": true}),
    )?;
    let routes = manager
        .pointer_mut("/route_config/virtual_hosts/0/routes")
        .and_then(Value::as_array_mut);
    for route in routes.context("no routes")? {
        let route = route.get_mut("route").context("a route to nowhere")?;
        set(route, "cluster", json!("device_service_http1"))?;
    }
    let options = manager.get_mut("common_http_protocol_options");
    set(
        options.context("no common_http_protocol_options")?,
        "headers_with_underscores_action",
        json!("ALLOW"),
    )
}
