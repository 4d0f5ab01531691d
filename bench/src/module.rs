//! How large is the module, and what does it ask of its host?

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use wasmparser::{Parser, Payload};

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Module {
    /// Its size in octets.
    pub octets: usize,
    /// What it imports: `env.proxy_log`.
    pub imports: Vec<String>,
}

impl Module {
    /// The imports that are no functions of the proxy-wasm ABI.
    pub fn foreign_imports(&self) -> impl Iterator<Item = &String> {
        let of_the_abi = |name: &&String| !name.starts_with("env.proxy_");
        self.imports.iter().filter(of_the_abi)
    }
}

/// Looks at a module.
pub fn measure(path: &Path) -> Result<Module> {
    let octets = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(&octets) {
        if let Payload::ImportSection(section) = payload? {
            for import in section.into_imports() {
                let import = import?;
                imports.push(format!("{}.{}", import.module, import.name));
            }
        }
    }
    imports.sort();
    Ok(Module {
        octets: octets.len(),
        imports,
    })
}
