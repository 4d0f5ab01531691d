//! What is it set to? The plugin configuration: one schema for guard and synchroniser, read
//! strictly, with errors that name the field and the mend.
//!
//! `docs/configuration.md` is its reference.

mod build;
mod error;
mod protobuf;
mod reader;
mod schema;
mod settings;
#[cfg(test)]
pub(crate) mod tests;

pub use error::{ConfigError, ConfigProblem, FieldPath, FieldSegment};
pub use schema::{SECTIONS, Section};
pub use settings::{
    BindingsConfig, CertificateSource, GuardConfig, LocalTable, LogIdentifiers, MAX_CONFIG_OCTETS,
    Mode, PluginConfig, RegistryConfig, SyncConfig,
};
