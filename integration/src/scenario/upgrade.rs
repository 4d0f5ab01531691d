//! What does the upstream see of a request for an upgrade? Of such a request alone Envoy hands on
//! `connection` as the client wrote it, and whoever reads it takes away the fields that it names
//! (RFC 9110, 7.6.1).

use anyhow::{Context, Result, ensure};

use super::fleet::{ACCOUNT, CLASS};
use super::real::Stage;
use super::report::Report;
use super::story::{case, open_socket_with};
use crate::upstream::REQUEST_HEADER;

/// All of them.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a tag forged on a WebSocket is replaced, and Connection takes none away",
        tags(stage)
    );
}

async fn tags(stage: &Stage) -> Result<()> {
    const FORGED: &str = "x-medbind-account: acc-9\r\nx-medbind-admin: yes\r\n";
    let ways = [
        "connection: upgrade, x-medbind-account, X-Medbind-Device\r\n",
        "connection: upgrade\r\nconnection: x-medbind-account,x-medbind-class\r\n",
        "connection: x-medbind-account\r\nconnection: keep-alive, upgrade\r\n",
        "connection: upgrade\r\n",
    ];
    for listener in ["edge", "open"] {
        for (number, way) in ways.iter().enumerate() {
            let told = || format!("on {listener} with {way:?}");
            let mark = format!("upgrade-{listener}-{number}");
            let lines = format!("{way}{FORGED}{REQUEST_HEADER}: {mark}\r\n");
            let client = stage.device(listener, "SN-A")?;
            let _socket = open_socket_with(&client, "SN-A", &lines)
                .await
                .with_context(told)?;
            let saw = stage.upstream.saw(&mark).with_context(told)?;
            let mut tags = saw.medbind_fields();
            tags.sort_unstable();
            let wanted = [
                ("x-medbind-account", ACCOUNT),
                ("x-medbind-class", CLASS),
                ("x-medbind-device", "acme:SN-A"),
                ("x-medbind-epoch", "1"),
                ("x-medbind-principal", "device"),
                ("x-medbind-traffic", "phi"),
            ];
            ensure!(tags == wanted, "the upstream saw {tags:?} {}", told());
            let named = saw.all("connection").join(",").to_ascii_lowercase();
            ensure!(
                named.contains("upgrade") && !named.contains("medbind"),
                "the upstream saw connection: {named} {}",
                told()
            );
        }
    }
    Ok(())
}
