//! The finished module: what it asks of its host, what it offers, how large it is.
//!
//! `cargo xtask test` builds the module and runs this; by hand: `cargo xtask module`, then
//! `MEDBIND_MODULE=dist/medbind.wasm cargo test --test module_shape`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use wasmparser::{ExternalKind, Parser, Payload};

/// 700 KiB.
const MOST_OCTETS: usize = 700 * 1024;

struct Shape {
    octets: usize,
    imports: Vec<(String, String)>,
    exports: Vec<String>,
    bytes: Vec<u8>,
}

fn shape() -> Shape {
    let Some(path) = std::env::var_os("MEDBIND_MODULE") else {
        panic!(
            "MEDBIND_MODULE does not say where the module is: run `cargo xtask module`, then set \
             MEDBIND_MODULE to its dist/medbind.wasm"
        );
    };
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut imports = Vec::new();
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.unwrap();
                    imports.push((import.module.to_owned(), import.name.to_owned()));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.unwrap();
                    if matches!(export.kind, ExternalKind::Func | ExternalKind::Memory) {
                        exports.push(export.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Shape {
        octets: bytes.len(),
        imports,
        exports,
        bytes,
    }
}

impl Shape {
    /// What Envoy's `allowed_capabilities` has to name: the host functions that the module calls,
    /// and the callbacks by which Envoy calls it.
    fn capabilities(&self) -> BTreeSet<String> {
        let functions = self.imports.iter().map(|(_, name)| name.clone());
        let callbacks = self
            .exports
            .iter()
            .filter(|name| name.starts_with("proxy_on_"));
        functions.chain(callbacks.cloned()).collect()
    }
}

#[test]
fn it_asks_nobody_but_the_proxy() {
    for (module, name) in shape().imports {
        assert_eq!(module, "env", "{name}");
        assert!(name.starts_with("proxy_"), "{name}");
    }
}

/// The configurations that people deploy allow the module what it uses: with less it would not
/// work, and what it does not use it has no business with.
#[test]
fn every_configuration_in_envoy_allows_exactly_what_it_uses() {
    let used = shape().capabilities();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
    let mut lists = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        for plugin in plugins(&file) {
            let allowed = plugin.pointer("/capability_restriction_config/allowed_capabilities");
            let Some(allowed) = allowed.and_then(Value::as_object) else {
                panic!("{}: a plug-in that may do everything", path.display());
            };
            let allowed = allowed.keys().cloned().collect::<BTreeSet<_>>();
            let missing = used.difference(&allowed).collect::<Vec<_>>();
            let needless = allowed.difference(&used).collect::<Vec<_>>();
            assert!(
                missing.is_empty() && needless.is_empty(),
                "{}: missing {missing:?}, needless {needless:?}; `cargo xtask module --print` has \
                 the list",
                path.display()
            );
            lists += 1;
        }
    }
    assert!(lists > 0, "no plug-in in envoy/");
}

/// Every plug-in's configuration in a file.
fn plugins(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) if fields.contains_key("vm_config") => vec![value],
        Value::Object(fields) => fields.values().flat_map(plugins).collect(),
        Value::Array(items) => items.iter().flat_map(plugins).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[test]
fn it_is_small() {
    let octets = shape().octets;
    assert!(octets <= MOST_OCTETS, "{octets} octets");
}

#[test]
fn it_cannot_be_told_to_trap() {
    let bytes = shape().bytes;
    let header = b"x-medbind-trap";
    let found = bytes.windows(header.len()).any(|window| window == header);
    assert!(
        !found,
        "built with the feature `trap`, which is for tests alone"
    );
}
