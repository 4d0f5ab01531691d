//! What medbind decides, and nothing else: a peer certificate becomes a device identity, the
//! identity leads to a binding, rules turn both into a permit or a deny.
//!
//! Everything here is a function of its arguments. There is no clock, no log, no I/O and no host:
//! the module in Envoy, the registry and the command line all run this same code.
//!
//! Tests run natively and on wasm32 under wasm-bindgen-test. For that each test module says
//!
//! ```text
//! #[cfg(target_arch = "wasm32")]
//! use wasm_bindgen_test::wasm_bindgen_test as test;
//! ```
//!
//! and goes on with `#[test]`; what needs a native crate (proptest, rcgen) stands under
//! `#[cfg(not(target_arch = "wasm32"))]`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::wildcard_enum_match_arm,
        clippy::print_stdout
    )
)]

pub mod binding;
pub mod cache;
pub mod certificate;
pub mod claim;
pub mod config;
pub mod decision;
pub mod deny;
pub mod feed;
mod hex;
pub mod identity;
pub mod issuer;
mod latest;
pub mod mqtt;
pub mod path;
pub mod peer;
mod pem;
pub mod problem;
pub mod pseudonym;
pub mod rule;
pub mod signature;
pub mod source;
mod strict;
pub mod sync;
pub mod tag;
#[cfg(all(test, feature = "verify"))]
mod testing;
mod text;
pub mod time;
pub mod trace;
pub mod units;
