//! What does Envoy do when the module panics? Only in the build that tests it.

use crate::host::Host;

/// Where the leader of the synchronisers finds that it is to panic.
const LEADER: &str = "mb1/trap";

/// Panics on the header that asks for it. Another one asks the leader to.
pub fn on(host: &impl Host, header: &str) {
    assert_ne!(header, "x-medbind-trap", "asked to panic");
    if header == "x-medbind-trap-leader" {
        let _ = host.set_shared_data(LEADER, b"now", None);
    }
}

/// Panics where the leader was asked to, once.
pub fn leading(host: &impl Host) {
    let asked = host.shared_data(LEADER).ok().flatten();
    let asked = asked.is_some_and(|(octets, _)| !octets.is_empty());
    if asked {
        let _ = host.set_shared_data(LEADER, b"", None);
    }
    assert!(!asked, "asked to panic, as the leader");
}
