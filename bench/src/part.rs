//! What can be measured by itself, and what became of it?

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum;
use medbind_workshop::progress;
use serde::Serialize;

/// One part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// CPU per request, against no filter, RBAC, an empty SDK filter and `ext_authz`
    Cpu,
    /// First sight of a certificate
    FirstSight,
    /// Memory of many bindings, the time to load them, and a change of history
    Memory,
    /// Revocation to first refusal
    Revocation,
    /// Size and imports of the module
    Module,
}

/// The parts that could not be measured, and why.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Failed(BTreeMap<Part, String>);

impl Failed {
    /// The figures of a part; or none, and it is noted, and said at once.
    pub fn unless<T>(&mut self, part: Part, measured: Result<T>) -> Option<T> {
        match measured {
            Ok(figures) => Some(figures),
            Err(error) => {
                progress::report(&error);
                self.0.insert(part, format!("{error:#}"));
                None
            }
        }
    }

    /// Whether everything could be measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this part could not be.
    pub fn has(&self, part: Part) -> bool {
        self.0.contains_key(&part)
    }

    /// Each by its name, with why.
    pub fn iter(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|(part, why)| {
            let name = part.to_possible_value();
            let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
            (name, why.as_str())
        })
    }
}
