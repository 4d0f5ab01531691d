//! The settings, checked and ready to use.

use core::time::Duration;

use serde_json::Value;

use super::error::{ConfigError, ConfigProblem};
use crate::decision::Policy;
use crate::issuer::IssuerSet;
use crate::signature::KeyPolicy;

/// The largest configuration that is read, in octets.
pub const MAX_CONFIG_OCTETS: usize = 1024 * 1024;

/// The configuration of one plugin.
#[derive(Clone, Debug)]
pub enum PluginConfig {
    /// `role: http`: a guard before an HTTP listener.
    Guard(Box<GuardConfig>),
    /// `role: sync`: the synchroniser.
    Sync(Box<SyncConfig>),
}

impl PluginConfig {
    /// Reads a configuration from JSON (RFC 8259), strictly: a key that is not known, or that
    /// stands there twice, is an error. Every problem is told, not the first alone.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        super::build::from_json(json)
    }

    /// Reads a configuration as Envoy hands it to a plug-in: the binary form of a
    /// `google.protobuf.Struct` (what YAML in a bootstrap becomes), or JSON text (a
    /// `google.protobuf.StringValue`, which is what Istio makes of `pluginConfig`).
    pub fn from_plugin(octets: &[u8]) -> Result<Self, ConfigError> {
        if octets.len() <= MAX_CONFIG_OCTETS
            && !octets.is_empty()
            && let Some(value) = super::protobuf::read_struct(octets)
        {
            return Self::from_value(&value);
        }
        Self::from_json(octets)
    }

    /// Reads a configuration that has been parsed already, from YAML for example.
    pub fn from_value(value: &Value) -> Result<Self, ConfigError> {
        super::build::from_value(value)
    }
}

/// What a guard is set to.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// Whether a deny refuses.
    pub mode: Mode,
    /// Who may sign peer certificates, and where they hold the serial.
    pub issuers: IssuerSet,
    /// Which public keys a peer certificate may have.
    pub key_policy: KeyPolicy,
    /// What decisions are made by.
    pub policy: Policy,
    /// Under which key the host keeps the verified token's payload (`payload_in_metadata` of
    /// Envoy's `jwt_authn`).
    pub account_metadata: Box<str>,
    /// How bindings come to this Envoy and how long they hold.
    pub bindings: BindingsConfig,
    /// Where the registry is; needed for lookups on demand, and where no synchroniser runs.
    pub registry: Option<RegistryConfig>,
    /// The path at which the guard itself says whether it can decide.
    pub ready_path: Option<Box<str>>,
    /// Where the peer certificate is read.
    pub certificate_source: CertificateSource,
    /// Whether `x-forwarded-client-cert` goes on to the upstream.
    pub forward_client_cert: bool,
    /// Whether `authorization` goes on to the upstream where the guard takes accounts.
    pub forward_authorization: bool,
    /// How much each worker remembers.
    pub local_table: LocalTable,
    /// How devices are named in logs.
    pub log_identifiers: LogIdentifiers,
    /// `Retry-After` of a 503: whole seconds.
    pub retry_after: Duration,
    /// What is allowed but worth a second look.
    pub warnings: Vec<ConfigProblem>,
}

/// What a synchroniser is set to.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// Where the registry is.
    pub registry: RegistryConfig,
    /// How bindings come to this Envoy and how long they hold.
    pub bindings: BindingsConfig,
}

/// Whether a deny refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A deny refuses.
    #[default]
    Enforce,
    /// Everything passes, untagged; decisions are counted and logged.
    Shadow,
}

impl Mode {
    /// The word in configuration and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// Where the peer certificate is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateSource {
    /// From the connection where the host offers it, else from the header.
    #[default]
    Auto,
    /// From the connection alone.
    Connection,
    /// From `x-forwarded-client-cert`, checked against the handshake's digest.
    ForwardedHeader,
}

impl CertificateSource {
    /// The word in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Connection => "connection",
            Self::ForwardedHeader => "forwarded_header",
        }
    }
}

/// How devices are named in logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogIdentifiers {
    /// By a keyed pseudonym.
    #[default]
    Pseudonym,
    /// By their canonical identity: the operator asked for it.
    Plain,
}

impl LogIdentifiers {
    /// The word in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pseudonym => "pseudonym",
            Self::Plain => "plain",
        }
    }
}

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The Envoy cluster that leads to it: its TLS, its client certificate.
    pub cluster: Box<str>,
    /// `:authority` of the calls.
    pub authority: Box<str>,
}

/// How bindings come to this Envoy and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingsConfig {
    /// Whether the whole registry is loaded; absence then means that there is no such device.
    pub preload: bool,
    /// The most bindings in the cache.
    pub capacity: u32,
    /// How long ago the registry may have been heard.
    pub max_stale: Duration,
    /// How long "no such device" is remembered after a lookup on demand.
    pub negative_ttl: Duration,
    /// How long a request waits for a lookup on demand.
    pub lookup_timeout: Duration,
    /// How far this clock and the registry's may be apart.
    pub max_clock_skew: Duration,
    /// The most requests that wait for lookups, in each worker.
    pub max_waiting: u32,
    /// The most requests that wait for the lookup of one device, in each worker.
    pub max_waiting_per_device: u32,
}

impl Default for BindingsConfig {
    fn default() -> Self {
        Self {
            preload: true,
            capacity: 1_000_000,
            max_stale: Duration::from_mins(15),
            negative_ttl: Duration::from_secs(10),
            lookup_timeout: Duration::from_millis(250),
            max_clock_skew: Duration::from_mins(5),
            max_waiting: 1_000,
            max_waiting_per_device: 50,
        }
    }
}

/// How much each worker remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTable {
    /// Verified peers, with their bindings.
    pub known_devices: u32,
    /// Certificates that were refused; they never push a verified peer out.
    pub refused: u32,
}

impl Default for LocalTable {
    fn default() -> Self {
        Self {
            known_devices: 16_384,
            refused: 1_024,
        }
    }
}
