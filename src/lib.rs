//! medbind's module for Envoy: the guard before a listener, and the synchroniser.
//!
//! The roles know a [`host::Host`] and no Envoy: so the same code runs in the module and, over a
//! host of the tests' own, natively. Nothing here decides: facts are read, `medbind-core` is asked,
//! and its answer is carried out.
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

pub mod asked;
pub mod bindings;
#[cfg(target_arch = "wasm32")]
mod entry;
pub mod forwarded;
pub mod guard;
pub mod host;
pub mod live;
pub mod lookup;
pub mod peers;
pub mod pseudonyms;
pub mod reply;
pub mod request;
pub mod root;
pub mod synchronise;
pub mod table;
pub mod telemetry;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "tests alone run this, and a panic in it is a test that fails"
    )
)]
pub mod testing;
#[cfg(feature = "trap")]
mod trap;
pub mod verifier;
