//! Envoy without Envoy: a host that holds what a test put into it, and an event loop around the
//! module's roles. Not part of the module.

mod envoy;
mod host;

pub use envoy::{FakeEnvoy, FakeRequest, Fate, SeenReply, StreamId, pem};
pub use host::{FakeCall, FakeHost, HostCall, World};
