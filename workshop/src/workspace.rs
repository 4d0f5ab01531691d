//! Where is it? The folders of the checkout.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// Where cargo builds to, whatever the environment says about it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where fetched and built tools are kept between runs.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The release of Envoy that everything is tested with.
pub const NEWEST_ENVOY: &str = "1.40.0";

/// Where a release of Envoy is kept once it has been fetched.
pub fn envoy(version: &str) -> PathBuf {
    tools().join("envoy").join(version).join("envoy")
}

/// Where finished modules are put.
pub fn dist() -> PathBuf {
    root().join("dist")
}
