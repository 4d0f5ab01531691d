//! The configurations of `envoy/` as they are shipped, put to a place of the harness's own.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::tools;

/// Where the shipped configurations look for their files.
pub const SHIPPED_FOLDER: &str = "/etc/medbind";
/// The shipped file that says who signs devices, beside `http.yaml`.
pub const DEVICE_CA: &str = "device-ca.yaml";

/// A bootstrap of Envoy.
#[derive(Clone, Debug)]
pub struct Bootstrap(Value);

impl Bootstrap {
    /// The text of a file of `envoy/`.
    pub fn shipped_text(file: &str) -> Result<String> {
        let path = tools::root().join("envoy").join(file);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The text of a file of `envoy/` that looks for its files in this folder.
    pub fn shipped_for(file: &str, folder: &Path) -> Result<String> {
        let folder = folder.to_string_lossy();
        Ok(Self::shipped_text(file)?.replace(SHIPPED_FOLDER, &folder))
    }

    /// A file of `envoy/` as it is shipped.
    pub fn shipped(file: &str) -> Result<Self> {
        Self::from_yaml(&Self::shipped_text(file)?).with_context(|| format!("in envoy/{file}"))
    }

    /// A bootstrap from YAML.
    pub fn from_yaml(text: &str) -> Result<Self> {
        Ok(Self(serde_saphyr::from_str(text)?))
    }

    /// The whole of it.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The whole of it, to be changed.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// As the documentation says to do it: files in a folder of one's own, the module where it
    /// was built, and, as only a test wants it, free ports of loopback.
    pub fn put_to(&mut self, folder: &Path, module: &Path) -> Result<()> {
        let module = module.to_string_lossy();
        let folder = folder.to_string_lossy();
        each_text(&mut self.0, &mut |text| {
            if text == &format!("{SHIPPED_FOLDER}/medbind.wasm") {
                *text = module.to_string();
            } else if let Some(rest) = text.strip_prefix(SHIPPED_FOLDER) {
                *text = format!("{folder}{rest}");
            }
        });
        if let Some(admin) = self.0.pointer_mut("/admin/address/socket_address") {
            *admin = json!({"address": "127.0.0.1", "port_value": 0});
        }
        let listeners = self
            .0
            .pointer_mut("/static_resources/listeners")
            .and_then(Value::as_array_mut);
        for listener in listeners.into_iter().flatten() {
            let address = listener
                .pointer_mut("/address/socket_address")
                .context("a listener without address")?;
            *address = json!({"address": "127.0.0.1", "port_value": 0});
        }
        Ok(())
    }

    /// A listener by its name.
    pub fn listener(&mut self, name: &str) -> Result<&mut Value> {
        named(&mut self.0, "/static_resources/listeners", name)
    }

    /// A cluster by its name.
    pub fn cluster(&mut self, name: &str) -> Result<&mut Value> {
        named(&mut self.0, "/static_resources/clusters", name)
    }

    /// Sends a cluster's traffic to an address.
    pub fn send_to(&mut self, cluster: &str, address: SocketAddr) -> Result<()> {
        let place = self.cluster(cluster)?.pointer_mut(
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address",
        );
        *place.context("a cluster without address")? =
            json!({"address": address.ip().to_string(), "port_value": address.port()});
        Ok(())
    }

    /// Sends to this address what the edge lets through, whatever it is.
    pub fn send_service_to(&mut self, address: SocketAddr) -> Result<()> {
        for cluster in [
            "device_service",
            "device_service_http1",
            "device_service_health",
        ] {
            self.send_to(cluster, address)?;
        }
        Ok(())
    }

    /// The TLS of a listener.
    pub fn tls(&mut self, listener: &str) -> Result<&mut Value> {
        let tls = self
            .listener(listener)?
            .pointer_mut("/filter_chains/0/transport_socket/typed_config");
        tls.context("a listener without TLS")
    }

    /// The HTTP connection manager of a listener.
    pub fn http(&mut self, listener: &str) -> Result<&mut Value> {
        const NAME: &str = "envoy.filters.network.http_connection_manager";
        let filters = self
            .listener(listener)?
            .pointer_mut("/filter_chains/0/filters")
            .and_then(Value::as_array_mut);
        let mut filters = filters.into_iter().flatten();
        let manager = filters.find(|filter| filter.get("name") == Some(&json!(NAME)));
        manager
            .and_then(|filter| filter.get_mut("typed_config"))
            .context("a listener without HTTP")
    }

    /// The configuration of the guard on a listener, as the module reads it.
    pub fn guard(&mut self, listener: &str) -> Result<&mut Value> {
        let filters = self
            .http(listener)?
            .get_mut("http_filters")
            .and_then(Value::as_array_mut);
        let guard = filters
            .into_iter()
            .flatten()
            .find(|filter| filter.get("name").and_then(Value::as_str) == Some("medbind"));
        guard
            .and_then(|filter| filter.pointer_mut("/typed_config/config/configuration/value"))
            .with_context(|| format!("no guard on the listener {listener}"))
    }

    /// The configuration of the synchroniser, as the module reads it.
    pub fn synchroniser(&mut self) -> Result<&mut Value> {
        let value = self
            .0
            .pointer_mut("/bootstrap_extensions/0/typed_config/config/configuration/value");
        value.context("no synchroniser")
    }

    /// Every plug-in configuration: the synchroniser's and each guard's.
    pub fn plugins(&mut self) -> Vec<&mut Value> {
        let mut found = Vec::new();
        collect_plugins(&mut self.0, &mut found);
        found
    }

    /// The text that Envoy reads.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.0)?)
    }
}

/// Without the lines between `# NAME: begin` and `# NAME: end`, each time.
pub fn without(text: &str, name: &str) -> Result<String> {
    let (begin, end) = (format!("# {name}: begin"), format!("# {name}: end"));
    let mut inside = false;
    let mut taken = 0;
    let mut rest = String::new();
    for line in text.lines() {
        if line.trim() == begin {
            inside = true;
        } else if line.trim() == end {
            inside = false;
            taken += 1;
        } else if !inside {
            rest += line;
            rest.push('\n');
        }
    }
    ensure!(
        taken > 0 && !inside,
        "no lines between {begin:?} and {end:?}"
    );
    Ok(rest)
}

/// Sets a field of an object, made where it is missing.
pub fn set(place: &mut Value, field: &str, value: Value) -> Result<()> {
    let object = place
        .as_object_mut()
        .ok_or_else(|| anyhow!("{field} cannot be set in something that is no object"))?;
    object.insert(field.to_owned(), value);
    Ok(())
}

/// Removes a field of an object.
pub fn remove(place: &mut Value, field: &str) {
    if let Some(object) = place.as_object_mut() {
        object.remove(field);
    }
}

/// Removes all fields of an object but these.
pub fn keep(place: &mut Value, fields: &[&str]) {
    if let Some(object) = place.as_object_mut() {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
}

fn named<'a>(root: &'a mut Value, list: &str, name: &str) -> Result<&'a mut Value> {
    let items = root.pointer_mut(list).and_then(Value::as_array_mut);
    items
        .into_iter()
        .flatten()
        .find(|item| item.get("name").and_then(Value::as_str) == Some(name))
        .with_context(|| format!("nothing named {name} in {list}"))
}

fn each_text(value: &mut Value, act: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => act(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, act)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_text(field, act)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn collect_plugins<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) if fields.contains_key("vm_config") => found.push(value),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| collect_plugins(field, found)),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| collect_plugins(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
