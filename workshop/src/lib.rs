//! What `cargo xtask` and the harness share.

pub mod progress;
pub mod shell;
pub mod workspace;
