//! What is no row: scenarios with a story.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use medbind_core::deny::DenyCode;
use rustls::SupportedProtocolVersion;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::answers;
use super::real::{Stage, said};
use super::report::Report;
use super::row::Place;
use super::story::{
    LIMIT, case, is_code, is_served, new_device, reading, wait_refused, wait_served,
};
use super::world::{add_listener, open};
use crate::bootstrap::{Bootstrap, set};
use crate::certificate::Spec;
use crate::client::{Ask, Client, Protocol, drain};
use crate::feed::Behaviour;
use crate::site::EDGE;
use crate::wait::until;

/// The settings of Envoy for `x-forwarded-client-cert`.
const FORWARDING: [&str; 5] = [
    "SANITIZE",
    "FORWARD_ONLY",
    "APPEND_FORWARD",
    "SANITIZE_SET",
    "ALWAYS_FORWARD_ONLY",
];

/// The scenarios that the place with the whole fleet is enough for.
pub async fn fleet(stage: &mut Stage, report: &mut Report, short: bool, full: bool) {
    case!(
        report,
        "a device revoked in the middle of 100 requests is refused from then on",
        revoked_in_the_middle(stage)
    );
    if short {
        return;
    }
    case!(
        report,
        "a resumed session of TLS 1.2 is served",
        resumed(stage, &rustls::version::TLS12)
    );
    case!(
        report,
        "a resumed session of TLS 1.3 is served",
        resumed(stage, &rustls::version::TLS13)
    );
    case!(
        report,
        "a resumed session of a device that was revoked is refused",
        resumed_and_revoked(stage)
    );
    case!(
        report,
        "an event stream is cut when the binding is suspended",
        events(stage, Protocol::Http1)
    );
    case!(
        report,
        "an event stream over HTTP/2 is cut, and the connection lives on",
        events(stage, Protocol::Http2)
    );
    case!(
        report,
        "an upload is cut when the binding is suspended",
        upload(stage)
    );
    case!(
        report,
        "a WebSocket is cut when the binding is suspended",
        socket(stage)
    );
    case!(
        report,
        "a certificate on the revocation list is refused in the handshake",
        on_the_list(stage)
    );
    case!(
        report,
        "a forged certificate header counts for nothing, whatever Envoy does with it",
        forwarded(stage)
    );
    case!(
        report,
        "strangers do not push a known device out of a table that holds few",
        crowd(stage, FORGETFUL, 1_000)
    );
    if full {
        case!(
            report,
            "100,000 strangers do not push a known device out, and take no memory",
            crowd(stage, "open", 100_000)
        );
    }
    case!(
        report,
        "a request for another server name is misdirected",
        misdirected(stage)
    );
    case!(report, "no log holds a device identity", logs(stage));
    case!(
        report,
        "known devices are served while the registry is down, and changes arrive after it is back",
        registry_down(stage)
    );
}

/// After the rows of a place: what it becomes.
pub async fn after(place: Place, stage: &mut Stage, report: &mut Report) {
    match place {
        Place::Stale => {
            case!(
                report,
                "stale bindings are fresh again when the registry is back",
                back(stage)
            );
        }
        Place::OnDemand => {
            case!(
                report,
                "a lookup that fails is never remembered as a verdict",
                failed_lookup(stage)
            );
            case!(
                report,
                "a binding is asked for on demand, once for many requests",
                on_demand(stage)
            );
            case!(
                report,
                "a lookup that takes too long refuses",
                too_late(stage)
            );
            case!(
                report,
                "the call of a request that was given up goes on to its end",
                given_up(stage)
            );
        }
        Place::Script => answers::bad(stage, report).await,
        Place::Fleet | Place::NoSynchroniser => {}
    }
}

/// Changes the bootstrap of the fleet's Envoy: a listener for each way to forward certificates, and
/// one whose guard remembers few.
pub fn listeners(bootstrap: &mut Bootstrap) -> Result<()> {
    let edge = bootstrap.listener("edge")?.clone();
    add_listener(bootstrap, &edge, FORGETFUL)?;
    open(bootstrap, FORGETFUL)?;
    let few = json!({"known_devices": 16, "refused": 16});
    set(bootstrap.guard(FORGETFUL)?, "local_table", few)?;
    for details in FORWARDING {
        for source in ["auto", "forwarded_header"] {
            let name = format!("{details}-{source}");
            add_listener(bootstrap, &edge, &name)?;
            let manager = bootstrap.http(&name)?;
            set(manager, "forward_client_cert_details", json!(details))?;
            set(
                manager,
                "set_current_client_cert_details",
                json!({"cert": true}),
            )?;
            set(bootstrap.guard(&name)?, "certificate_source", json!(source))?;
        }
    }
    Ok(())
}

async fn revoked_in_the_middle(stage: &mut Stage) -> Result<()> {
    // Over HTTP/2: where a request has a body, Envoy ends a connection of HTTP/1.1 with its refusal.
    let client = new_device(stage, "edge", "SN-HUNDRED")
        .await?
        .with_protocol(Protocol::Http2);
    let ask = reading("SN-HUNDRED");
    let mut connection = client.connect().await?;
    for number in 0..50 {
        let answer = connection.send(&ask).await?;
        is_served(&answer).with_context(|| format!("request {number}"))?;
    }
    stage.registry()?.act("acme:SN-HUNDRED", "revoke").await?;
    let start = Instant::now();
    let mut refused = 0;
    let mut served = 0;
    while refused < 50 {
        ensure!(
            start.elapsed() < LIMIT,
            "still served after {served} requests"
        );
        let answer = match connection.send(&ask).await {
            Ok(answer) => answer,
            // The one that was under way when the binding ended was cut, its connection was not.
            Err(_) if refused == 0 => {
                refused += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if answer.is_success() {
            ensure!(refused == 0, "served again after {refused} refusals");
            served += 1;
        } else {
            is_code(&answer, DenyCode::BindingRevoked)?;
            if refused == 0 {
                println!("      revoked to first refusal: {:.0?}", start.elapsed());
            }
            refused += 1;
        }
    }
    Ok(())
}

fn resumed_client(
    stage: &Stage,
    version: &'static SupportedProtocolVersion,
    serial: &str,
) -> Result<Client> {
    let site = &stage.world.site;
    let identity = site.device_ca.issue(&Spec::device(serial))?;
    stage
        .client("edge", None)?
        .with_tls(version, &site.infra_ca, Some(&identity))
}

async fn resumed(stage: &mut Stage, version: &'static SupportedProtocolVersion) -> Result<()> {
    let client = resumed_client(stage, version, "SN-A")?;
    let mut first = client.connect().await?;
    ensure!(!first.resumed, "the first session is no resumed one");
    is_served(&first.send(&reading("SN-A")).await?)?;
    // On each worker at least once, whichever takes the connection.
    for _ in 0..8 {
        let mut next = client.connect().await?;
        ensure!(next.resumed, "the session was not resumed");
        ensure!(!next.early_data, "early data was taken");
        is_served(&next.send(&reading("SN-A")).await?)?;
    }
    Ok(())
}

async fn resumed_and_revoked(stage: &mut Stage) -> Result<()> {
    stage.registry()?.hold_active("SN-RESUMED").await?;
    let client = resumed_client(stage, &rustls::version::TLS13, "SN-RESUMED")?;
    wait_served(&client, "SN-RESUMED").await?;
    stage.registry()?.act("acme:SN-RESUMED", "revoke").await?;
    // Each worker sees the change at its own next tick.
    wait_refused(&client, "SN-RESUMED", DenyCode::BindingRevoked).await?;
    let ask = reading("SN-RESUMED");
    let mut connection = client.connect().await?;
    ensure!(connection.resumed, "the session was not resumed");
    is_code(&connection.send(&ask).await?, DenyCode::BindingRevoked)
}

async fn events(stage: &mut Stage, protocol: Protocol) -> Result<()> {
    let serial = format!("SN-EVENTS-{protocol:?}");
    let client = new_device(stage, "edge", &serial)
        .await?
        .with_protocol(protocol);
    let cut = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    let mut connection = client.connect().await?;
    let ask = Ask::get(format!("/v1/devices/acme:{serial}/events"));
    let empty = http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync();
    let response = connection.start(&ask, empty).await?;
    ensure!(
        response.status().is_success(),
        "the stream was refused: {}",
        response.status()
    );
    let stream = tokio::spawn(drain(response.into_body()));
    stage
        .registry()?
        .act(&format!("acme:{serial}"), "suspend")
        .await?;
    let start = Instant::now();
    let clean = timeout(LIMIT, stream)
        .await
        .context("the stream goes on")??;
    println!("      suspended to cut: {:.0?}", start.elapsed());
    // Envoy 1.36 resets without an error (NO_ERROR), which reads like an end in order.
    let reads_like_an_end = protocol == Protocol::Http2 && stage.line < (1, 37);
    ensure!(
        clean == reads_like_an_end,
        "the stream came to a clean end: {clean}"
    );
    let counted = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    ensure!(counted > cut, "the cut was not counted");
    if protocol == Protocol::Http2 {
        is_code(
            &connection.send(&reading(&serial)).await?,
            DenyCode::BindingSuspended,
        )?;
    }
    Ok(())
}

async fn upload(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "edge", "SN-UPLOAD")
        .await?
        .with_protocol(Protocol::Http2);
    let seen = stage.upstream.count();
    let chunks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"reading\n"))), ()))
    });
    let body = StreamBody::new(chunks.boxed()).boxed_unsync();
    let mut connection = client.connect().await?;
    let ask = reading("SN-UPLOAD");
    let sending = tokio::spawn(async move {
        let response = connection.start(&ask, body).await?;
        anyhow::Ok(response.status())
    });
    let upstream = &stage.upstream;
    until("the upload reaches the upstream", LIMIT, || async {
        (upstream.count() > seen).then_some(())
    })
    .await?;
    stage.registry()?.act("acme:SN-UPLOAD", "suspend").await?;
    let ended = timeout(LIMIT, sending)
        .await
        .context("the upload goes on")??;
    if let Ok(status) = ended {
        ensure!(!status.is_success(), "the upload was taken: {status}");
    }
    Ok(())
}

async fn socket(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "open", "SN-SOCKET").await?;
    let mut stream = client.connect_tls(b"http/1.1").await?;
    let head = format!(
        "GET /v1/devices/acme:SN-SOCKET/socket HTTP/1.1\r\nhost: {EDGE}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\r\n\r\n") {
        let read = timeout(LIMIT, stream.read(&mut buffer)).await??;
        ensure!(read > 0, "the connection ended: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    ensure!(text.starts_with("HTTP/1.1 101"), "no upgrade: {text:?}");
    stream.write_all(b"echo").await?;
    let read = timeout(LIMIT, stream.read(&mut buffer)).await??;
    ensure!(&buffer[..read] == b"echo", "no echo");
    stage.registry()?.act("acme:SN-SOCKET", "suspend").await?;
    match timeout(LIMIT, stream.read(&mut buffer))
        .await
        .context("the socket goes on")?
    {
        Ok(0) | Err(_) => Ok(()),
        Ok(read) => bail!(
            "the socket says {:?}",
            String::from_utf8_lossy(&buffer[..read])
        ),
    }
}

async fn on_the_list(stage: &mut Stage) -> Result<()> {
    let client = stage.client("edge", Some(&stage.on_the_list))?;
    let answer = client.send(&reading("SN-A")).await;
    ensure!(answer.is_err(), "it was answered");
    // The guard alone does not read the list: the same certificate elsewhere shows that the list
    // it was.
    let open = stage.client("open", Some(&stage.on_the_list))?;
    is_served(&open.send(&reading("SN-A")).await?)
}

fn url_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, octet| {
        if octet.is_ascii_alphanumeric() {
            encoded.push(char::from(octet));
        } else {
            let _ = write!(encoded, "%{octet:02X}");
        }
        encoded
    })
}

async fn forwarded(stage: &mut Stage) -> Result<()> {
    let site = &stage.world.site;
    let victim = site.device_ca.issue(&Spec::device("SN-B"))?;
    let header = format!(
        "Hash={};Cert=\"{}\"",
        victim.digest(),
        url_encoded(&victim.leaf_pem())
    );
    for details in FORWARDING {
        for source in ["auto", "forwarded_header"] {
            let name = format!("{details}-{source}");
            let told = || format!("with {details} and certificate_source {source}");
            let forged = |serial: &str| reading(serial).header("x-forwarded-client-cert", &header);
            let nobody = stage.client(&name, None)?;
            let answer = nobody.send(&forged("SN-B")).await?;
            is_code(&answer, DenyCode::NoPeerCertificate).with_context(told)?;
            let device = stage.device(&name, "SN-A")?;
            let answer = device.send(&forged("SN-B")).await?;
            ensure!(!answer.is_success(), "the victim was served {}", told());
            let answer = device.send(&forged("SN-A")).await?;
            let given = stage.line >= (1, 38) && source == "auto"
                || matches!(details, "SANITIZE_SET" | "APPEND_FORWARD");
            if given {
                is_served(&answer).with_context(told)?;
                let saw = answer.saw().context("nothing was seen")?;
                let device = saw.one("x-medbind-device");
                ensure!(device == Some("acme:SN-A"), "it was {device:?} {}", told());
                let forwarded = saw.all("x-forwarded-client-cert");
                ensure!(
                    forwarded.is_empty(),
                    "the upstream saw {forwarded:?} {}",
                    told()
                );
            } else {
                is_code(&answer, DenyCode::Internal).with_context(told)?;
            }
        }
    }
    Ok(())
}

/// The listener whose guard remembers few.
const FORGETFUL: &str = "forgetful";
/// How many strangers fill what is remembered of them, on every worker.
const FULL: u32 = 3_000;
/// How much Envoy may grow by strangers after that: what its allocator does, and no more.
const MORE_AT_MOST: u64 = 4 << 20;

/// Many strangers, and among them a known device on a connection that stays, and so on one worker,
/// which is to remember it: its certificate is checked once.
async fn crowd(stage: &mut Stage, listener: &str, count: u32) -> Result<()> {
    let known = stage.device(listener, "SN-A")?;
    let mut connection = known.connect().await?;
    is_served(&connection.send(&reading("SN-A")).await?)?;
    let checked = stage.envoy.metric("medbind_verifications", &[]).await?;
    let spec = Spec::device("SN-A");
    let mut full = None;
    for (number, stranger) in (0..count).zip(stage.world.site.stranger_ca.many(&spec)?) {
        let answer = stage
            .client(listener, Some(&stranger?))?
            .send(&reading("SN-A"))
            .await?;
        is_code(&answer, DenyCode::UnknownIssuer).with_context(|| format!("stranger {number}"))?;
        if number % 50 == 0 {
            is_served(&connection.send(&reading("SN-A")).await?)?;
        }
        if number == FULL {
            full = Some(stage.envoy.resident_octets()?);
        }
    }
    if let Some(full) = full {
        let more = stage.envoy.resident_octets()?.saturating_sub(full);
        println!(
            "      {} strangers after the first {FULL}: {} KiB more",
            count - FULL,
            more / 1024
        );
        // Each would take some hundred octets, if it were remembered.
        ensure!(more < MORE_AT_MOST, "{more} octets more");
    }
    is_served(&connection.send(&reading("SN-A")).await?)?;
    let checked = stage.envoy.metric("medbind_verifications", &[]).await? - checked;
    println!("      {checked} signatures checked");
    // A stranger's issuer is told by its key identifier, without a signature.
    ensure!(
        checked < 0.5,
        "the known device was forgotten: {checked} signatures were checked"
    );
    Ok(())
}

async fn misdirected(stage: &mut Stage) -> Result<()> {
    let mut ask = reading("SN-A");
    ask.authority = Some("other.example".to_owned());
    let client = stage.device("edge", "SN-A")?.with_protocol(Protocol::Http2);
    let answer = client.send(&ask).await?;
    ensure!(answer.status == 421, said(&answer, "it was to be 421"));
    Ok(())
}

async fn logs(stage: &mut Stage) -> Result<()> {
    // In this order, so that the line of the permit is there when the line of the refusal is.
    let permitted = new_device(stage, "edge", "SN-LOGGED").await?;
    is_served(&permitted.send(&reading("SN-LOGGED")).await?)?;
    let refused = stage.device("edge", "SN-REVOKED")?;
    is_code(
        &refused.send(&reading("SN-REVOKED")).await?,
        DenyCode::BindingRevoked,
    )?;
    let process = &stage.envoy.process;
    until("the refusal is in the log of accesses", LIMIT, || async {
        process.stdout.find("binding_revoked")
    })
    .await?;
    until("the refusal is in the log", LIMIT, || async {
        process.stderr.find("binding_revoked")
    })
    .await?;
    for line in process.stdout.lines().iter().chain(&process.stderr.lines()) {
        ensure!(
            !line.contains("SN-"),
            "a log holds a device identity: {line}"
        );
    }
    let accesses = stage.envoy.access_log();
    let says = |status: u16, code: Value, class: Value| {
        let line = accesses.iter().rev().find(|line| {
            line["status"] == status && line["code"] == code && line["class"] == class
        });
        let device = line.and_then(|line| line["device"].as_str());
        ensure!(
            device.is_some_and(|device| device.len() == 16),
            "the log of accesses has no line of {status} with code {code}, class {class} and a \
             pseudonym; its last one: {:?}",
            accesses.last()
        );
        Ok(())
    };
    says(200, Value::Null, json!("cgm"))?;
    says(403, json!("binding_revoked"), Value::Null)
}

async fn registry_down(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "edge", "SN-DOWN").await?;
    stage.registry()?.kill();
    for _ in 0..20 {
        is_served(&client.send(&reading("SN-DOWN")).await?)?;
    }
    stage.registry()?.restart().await?;
    stage.registry()?.act("acme:SN-DOWN", "revoke").await?;
    let start = Instant::now();
    let ask = reading("SN-DOWN");
    let refused = until("the change arrives", Duration::from_mins(1), || async {
        client
            .send(&ask)
            .await
            .ok()
            .filter(|answer| !answer.is_success())
    });
    is_code(&refused.await?.0, DenyCode::BindingRevoked)?;
    println!(
        "      restarted and revoked to first refusal: {:.1?}",
        start.elapsed()
    );
    Ok(())
}

async fn back(stage: &mut Stage) -> Result<()> {
    stage.registry()?.restart().await?;
    let start = Instant::now();
    stage.wait_until(200, "\"ready\":true").await?;
    println!("      registry back to ready: {:.1?}", start.elapsed());
    is_served(&stage.device("edge", "SN-A")?.send(&reading("SN-A")).await?)
}

/// How often the registry was asked for a device.
fn asked(stage: &mut Stage, device: &str) -> Result<usize> {
    let lookups = stage.script()?.lookups();
    Ok(lookups.iter().filter(|asked| *asked == device).count())
}

/// Each request asks the registry anew, and what it answers at last is in force at once: much sooner
/// than a "no" would be forgotten.
async fn failed_lookup(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_status: Some(500),
        ..Behaviour::default()
    });
    let client = stage.device("edge", "SN-A")?;
    for _ in 0..6 {
        let before = asked(stage, "acme:SN-A")?;
        let answer = client.send(&reading("SN-A")).await?;
        is_code(&answer, DenyCode::LookupFailed)?;
        let times = asked(stage, "acme:SN-A")? - before;
        ensure!(times == 1, "the registry was asked {times} times");
    }
    stage.script()?.behave(Behaviour::default());
    // On every worker.
    for _ in 0..12 {
        is_served(&client.send(&reading("SN-A")).await?)?;
    }
    Ok(())
}

async fn on_demand(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_delay: Some(Duration::from_millis(50)),
        ..Behaviour::default()
    });
    let client = stage.device("edge", "SN-B")?.with_protocol(Protocol::Http2);
    let ask = reading("SN-B");
    let asking = (0..20).map(|_| client.send(&ask));
    for answer in futures_util::future::join_all(asking).await {
        is_served(&answer?)?;
    }
    let asked = asked(stage, "acme:SN-B")?;
    println!("      20 requests, {asked} lookups");
    // One for each worker.
    ensure!(
        (1..=2).contains(&asked),
        "the registry was asked {asked} times"
    );
    let nobody = stage.device("edge", "SN-NOBODY")?;
    is_code(
        &nobody.send(&reading("SN-NOBODY")).await?,
        DenyCode::UnknownDevice,
    )
}

/// That Envoy does not cancel such a call is what the guard's count of calls stands on.
async fn given_up(stage: &mut Stage) -> Result<()> {
    const LATE: &str = "envoy_cluster_upstream_rq_timeout";
    const CLUSTER: [&str; 1] = ["envoy_cluster_name=\"registry\""];
    let client = stage.device("edge", "SN-GONE")?;
    let before = stage.envoy.metric(LATE, &CLUSTER).await?;
    let script = stage.script()?;
    script.behave(Behaviour {
        lookup_delay: Some(Duration::from_secs(5)),
        ..Behaviour::default()
    });
    let script = &*script;
    let asked = until("the registry is asked", LIMIT, || async {
        let lookups = script.lookups();
        lookups.contains(&"acme:SN-GONE".to_owned()).then_some(())
    });
    let ask = reading("SN-GONE");
    tokio::select! {
        answer = client.send(&ask) => bail!(said(&answer?, "it was to wait")),
        asked = asked => { asked?; }
    }
    // Its own, and the one that is made instead.
    let envoy = &stage.envoy;
    until("two calls run into their deadline", LIMIT, || async {
        let late = envoy.metric(LATE, &CLUSTER).await.ok()?;
        (late >= before + 2.0).then_some(())
    })
    .await?;
    Ok(())
}

async fn too_late(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_delay: Some(Duration::from_secs(5)),
        ..Behaviour::default()
    });
    let late = stage.device("edge", "SN-LATE")?;
    is_code(
        &late.send(&reading("SN-LATE")).await?,
        DenyCode::LookupFailed,
    )
}
