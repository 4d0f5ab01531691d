//! What stands between the device and the answer? One Envoy for each answer to that, and nothing
//! else between them that differs.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use medbind_integration::bootstrap::{Bootstrap, remove, set};
use serde::Serialize;
use serde_json::{Value, json};

/// What the guard's place in `envoy/http.yaml` is taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Nothing.
    None,
    /// Envoy's own filter for role-based access control, with one principal.
    Rbac,
    /// A filter of the proxy-wasm SDK that does nothing.
    Empty,
    /// medbind, as it is shipped.
    Medbind,
    /// Envoy's filter for external authorisation, over HTTP, with a service on loopback that says
    /// yes at once.
    ExtAuthz,
}

impl Variant {
    /// All of them, cheapest first.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Rbac,
        Self::Empty,
        Self::Medbind,
        Self::ExtAuthz,
    ];

    /// As the table names it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Rbac => "native RBAC, one principal",
            Self::Empty => "empty SDK filter",
            Self::Medbind => "medbind",
            Self::ExtAuthz => "ext_authz over HTTP",
        }
    }
}

/// The path that the load asks for.
pub const PATH: &str = "/v1/devices/acme:SN-BENCH/readings";
/// The server name under which Envoy answers by itself.
pub const ANSWERED: &str = "answered.example";
/// A path whose answer says in `x-saw` with which account the request was tagged.
pub const SHOWN: &str = "/v1/devices/acme:SN-BENCH/shown";

/// Where the parts are that a variant needs.
pub struct Places<'a> {
    /// The empty module.
    pub empty: &'a Path,
    /// The service that says yes.
    pub yes: SocketAddr,
    /// The principal of the device, as Envoy reads it from the certificate.
    pub principal: &'a str,
}

/// Makes `envoy/http.yaml`, which has the guard, into one that has this in its place.
pub fn put(bootstrap: &mut Bootstrap, variant: Variant, places: &Places<'_>) -> Result<()> {
    answered_by_envoy(bootstrap)?;
    if variant != Variant::Medbind {
        // The synchroniser, and the listener whose readiness path the guard answers.
        remove(bootstrap.value_mut(), "bootstrap_extensions");
        let listeners = bootstrap
            .value_mut()
            .pointer_mut("/static_resources/listeners");
        let listeners = listeners.and_then(Value::as_array_mut);
        listeners
            .context("no listeners")?
            .retain(|listener| listener.get("name") == Some(&json!("edge")));
    }
    let filters = bootstrap.http("edge")?.get_mut("http_filters");
    let filters = filters
        .and_then(Value::as_array_mut)
        .context("no filters")?;
    let guard = filters
        .iter()
        .position(|filter| filter.get("name") == Some(&json!("medbind")))
        .context("no guard")?;
    match variant {
        Variant::Medbind => {}
        Variant::None => {
            filters.remove(guard);
        }
        Variant::Empty => {
            let config = filters
                .get_mut(guard)
                .and_then(|filter| filter.pointer_mut("/typed_config/config"));
            let config = config.context("the guard has no configuration")?;
            set(config, "name", json!("empty"))?;
            set(config, "root_id", json!("empty"))?;
            remove(config, "configuration");
            let vm = config.get_mut("vm_config").context("the guard has no VM")?;
            set(vm, "vm_id", json!("empty"))?;
            set(vm, "code", json!({"local": {"filename": places.empty}}))?;
        }
        Variant::Rbac => filters[guard] = rbac(places.principal),
        Variant::ExtAuthz => {
            filters[guard] = ext_authz();
            let clusters = bootstrap
                .value_mut()
                .pointer_mut("/static_resources/clusters");
            let clusters = clusters.and_then(Value::as_array_mut);
            clusters.context("no clusters")?.push(cluster(places.yes));
        }
    }
    Ok(())
}

/// A second server name under which Envoy answers by itself; and the access log is written as ever,
/// but to nowhere.
pub fn answered_by_envoy(bootstrap: &mut Bootstrap) -> Result<()> {
    let manager = bootstrap.http("edge")?;
    let log = manager.pointer_mut("/access_log/0/typed_config");
    set(log.context("no access log")?, "path", json!("/dev/null"))?;
    let hosts = manager.pointer_mut("/route_config/virtual_hosts");
    let hosts = hosts.and_then(Value::as_array_mut);
    hosts.context("no virtual hosts")?.push(json!({
        "name": "answered",
        "domains": [ANSWERED],
        "routes": [
            {
                "match": {"path": SHOWN},
                "direct_response": {"status": 200},
                "response_headers_to_add": [
                    {"header": {"key": "x-saw", "value": "%REQ(X-MEDBIND-ACCOUNT)%"}},
                ],
            },
            {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
        ],
    }));
    Ok(())
}

fn rbac(principal: &str) -> Value {
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "device": {
                        "permissions": [{"any": true}],
                        "principals": [
                            {"authenticated": {"principal_name": {"exact": principal}}},
                        ],
                    },
                },
            },
        },
    })
}

fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "http_service": {
                "server_uri": {"uri": "http://yes", "cluster": "yes", "timeout": "5s"},
            },
        },
    })
}

fn cluster(yes: SocketAddr) -> Value {
    json!({
        "name": "yes",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": "yes",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": yes.ip().to_string(), "port_value": yes.port(),
            }}}}]}],
        },
    })
}
