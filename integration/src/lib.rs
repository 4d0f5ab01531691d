//! The harness: a real Envoy with the real module, a registry, an upstream and devices, all over
//! TLS, and what the demo, the scenarios and the benchmark tell with them.

pub mod bootstrap;
pub mod certificate;
pub mod client;
pub mod ending;
pub mod envoy;
pub mod feed;
pub mod frames;
pub mod name_server;
pub mod process;
pub mod proxy;
pub mod scenario;
pub mod server;
pub mod site;
pub mod token;
pub mod tools;
pub mod upstream;
pub mod wait;
