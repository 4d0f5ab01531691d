//! What does Envoy do when the module panics? Only in the build that tests it.

/// Panics on the header that asks for it.
pub fn on(header: &str) {
    assert_ne!(header, "x-medbind-trap", "asked to panic");
}
