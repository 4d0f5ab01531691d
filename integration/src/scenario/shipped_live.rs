//! Do uploads, event streams, `WebSockets` and gRPC work as `envoy/http.yaml` is shipped, and end when
//! they should? And what is left of it when it is full?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use medbind_core::deny::DenyCode;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::Report;
use super::shipped::{Around, as_it_is, replace};
use super::story::{
    LIMIT, case, echoes, ends, is_code, is_served, listen, open_socket, reading, slow_body,
};
use super::world::add_listener;
use crate::bootstrap::set;
use crate::certificate::{Spec, now_seconds};
use crate::client::{Answer, Ask, Client, Connection, Drained, Protocol, drain};
use crate::envoy::{Envoy, get, probe};
use crate::server;
use crate::upstream::{REQUEST_HEADER, Upstream};
use crate::wait::until;

const ANSWER: &str = "http.yaml gives up an answer that does not come";
const GRPC: &str = "http.yaml carries gRPC to a service of HTTP/2";
const UPLOAD: &str = "http.yaml takes an upload that lasts longer than an answer may take";
const STREAMS: &str = "http.yaml keeps event streams and WebSockets until the binding ends";
const LONGEST: &str = "http.yaml ends an event stream and a WebSocket at the end of their time";
const UPGRADES: &str = "http.yaml upgrades to WebSockets alone";
const PROBES: &str =
    "http.yaml answers on its listener for probes whether it is ready, and nothing else";
const MANY_PROBES: &str = "http.yaml bounds the connections of its listener for probes";
const UNCOUNTED: &str =
    "http.yaml counts no probe as a decision, by whatever method, and logs none";
const ENDS: &str = "http.yaml shows when what devices see ends";
const IDLE_PROBES: &str = "http.yaml ends a probe's connection that asks nothing";
const HTTP1: &str = "http.yaml serves devices of HTTP/2 before a service of HTTP/1.1 alone";
const FULL: &str = "http.yaml takes no device where its memory is used up, and answers probes";

/// What is shown here.
pub(super) const NAMES: [&str; 13] = [
    ANSWER,
    GRPC,
    UPLOAD,
    STREAMS,
    LONGEST,
    UPGRADES,
    PROBES,
    UNCOUNTED,
    ENDS,
    IDLE_PROBES,
    MANY_PROBES,
    HTTP1,
    FULL,
];

/// As it is shipped, but that an answer may take a second, and a request five.
fn hurried(text: &str) -> Result<String> {
    let text = replace(text, "timeout: 30s}", "timeout: 1s}")?;
    replace(&text, "request_timeout: 1800s", "request_timeout: 5s")
}

/// How much longer than either a stream is watched.
const WATCHED: Duration = Duration::from_secs(6);

/// All of them.
pub(super) async fn cases(around: &mut Around, report: &mut Report) {
    let shared = [
        ANSWER,
        GRPC,
        UPLOAD,
        STREAMS,
        LONGEST,
        UPGRADES,
        PROBES,
        UNCOUNTED,
        ENDS,
        IDLE_PROBES,
        MANY_PROBES,
    ];
    if shared.iter().any(|name| report.wants(name)) {
        report.begin();
        // Beside it one whose streams end sooner.
        let envoy = around.start(hurried, |bootstrap| {
            let edge = bootstrap.listener("edge")?.clone();
            add_listener(bootstrap, &edge, "brief")?;
            let options = bootstrap
                .http("brief")?
                .get_mut("common_http_protocol_options");
            set(
                options.context("no options")?,
                "max_stream_duration",
                json!("2s"),
            )
        });
        match envoy.await {
            Err(error) => report.end("http.yaml is loaded with short times", Err(error)),
            Ok(envoy) => {
                case!(report, ANSWER, answer_that_does_not_come(around, &envoy));
                case!(report, GRPC, grpc(around, &envoy));
                case!(report, UPLOAD, upload(around, &envoy));
                case!(report, STREAMS, streams(around, &envoy));
                case!(report, LONGEST, longest(around, &envoy));
                case!(report, UPGRADES, upgrades(around, &envoy));
                case!(report, PROBES, probes(around, &envoy));
                case!(report, UNCOUNTED, uncounted(&envoy));
                case!(report, ENDS, shown_ends(&envoy));
                case!(report, IDLE_PROBES, idle_probes(&envoy));
                case!(report, MANY_PROBES, many_probes(&envoy));
            }
        }
    }
    case!(report, HTTP1, http1_alone(around));
    case!(report, FULL, full(around));
}

fn device(around: &Around, envoy: &Envoy, listener: &str, serial: &str) -> Result<Client> {
    let identity = around.site.device_ca.issue(&Spec::device(serial))?;
    around
        .site
        .client(envoy.listener(listener)?, Some(&identity))
}

async fn answer_that_does_not_come(around: &Around, envoy: &Envoy) -> Result<()> {
    let client = device(around, envoy, "edge", "SN-A")?;
    let answer = client
        .send(&Ask::get("/v1/devices/acme:SN-A/silence"))
        .await?;
    ensure!(
        answer.status == 504,
        "it was answered with {}",
        answer.status
    );
    Ok(())
}

async fn grpc(around: &Around, envoy: &Envoy) -> Result<()> {
    let client = device(around, envoy, "edge", "SN-A")?.with_protocol(Protocol::Http2);
    // A message of three octets that is not compressed (gRPC over HTTP/2, Length-Prefixed-Message).
    let message = [0, 0, 0, 0, 3, 8, 98, 0];
    let mut ask = Ask::post("/v1/devices/acme:SN-A/readings", message)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "30S")
        .header(REQUEST_HEADER, "grpc-as-shipped");
    let answer = client.send(&ask).await?;
    is_served(&answer)?;
    ensure!(answer.body == message, "the answer is {:?}", answer.body);
    let status = answer
        .trailers
        .iter()
        .find(|(name, _)| name == "grpc-status");
    let status = status.map(|(_, status)| status.as_str());
    ensure!(status == Some("0"), "grpc-status is {status:?}");
    let saw = around
        .upstream
        .saw("grpc-as-shipped")
        .context("the upstream saw nothing")?;
    ensure!(
        saw.version == "HTTP/2.0",
        "the upstream was spoken to by {}",
        saw.version
    );
    ensure!(saw.one("te") == Some("trailers"), "the upstream saw no te");
    ensure!(
        saw.one("x-medbind-device") == Some("acme:SN-A"),
        "it was not tagged"
    );
    "/v1/devices/acme:SN-B/readings".clone_into(&mut ask.path);
    is_code(&client.send(&ask).await?, DenyCode::NotPermitted)
}

async fn upload(around: &Around, envoy: &Envoy) -> Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = device(around, envoy, "edge", "SN-A")?.with_protocol(protocol);
        let mut connection = client.connect().await?;
        let body = slow_body(Duration::from_secs(2)).boxed_unsync();
        let response = connection.start(&reading("SN-A"), body).await?;
        let answer = Answer::collect(response).await?;
        is_served(&answer).with_context(|| format!("{protocol:?}"))?;
    }
    Ok(())
}

async fn listening(
    client: &Client,
    serial: &str,
) -> Result<(Connection, tokio::task::JoinHandle<Drained>)> {
    let mut connection = client.connect().await?;
    let body = listen(&mut connection, serial, None).await?;
    Ok((connection, tokio::spawn(drain(body))))
}

async fn streams(around: &mut Around, envoy: &Envoy) -> Result<()> {
    const SERIAL: &str = "SN-STREAMS";
    around.registry.hold_active(SERIAL).await?;
    let client = device(around, envoy, "edge", SERIAL)?;
    super::story::wait_served(&client, SERIAL).await?;
    let second = client.clone().with_protocol(Protocol::Http2);
    let (_first, mut one) = listening(&client, SERIAL).await?;
    let (_second, mut two) = listening(&second, SERIAL).await?;
    let mut socket = open_socket(&client, SERIAL).await?;
    tokio::time::sleep(WATCHED).await;
    ensure!(!one.is_finished(), "the event stream has ended");
    ensure!(!two.is_finished(), "the event stream over HTTP/2 has ended");
    echoes(&mut socket).await?;
    around
        .registry
        .act(&format!("acme:{SERIAL}"), "suspend")
        .await?;
    timeout(LIMIT, &mut one)
        .await
        .context("the event stream goes on")??;
    timeout(LIMIT, &mut two)
        .await
        .context("the event stream over HTTP/2 goes on")??;
    ends(&mut socket).await
}

async fn longest(around: &Around, envoy: &Envoy) -> Result<()> {
    let client = device(around, envoy, "brief", "SN-A")?;
    let (_connection, stream) = listening(&client, "SN-A").await?;
    let mut socket = open_socket(&client, "SN-A").await?;
    timeout(LIMIT, stream)
        .await
        .context("the event stream goes on")??;
    ends(&mut socket).await
}

async fn upgrades(around: &Around, envoy: &Envoy) -> Result<()> {
    let client = device(around, envoy, "edge", "SN-A")?;
    let ask = |protocol: &str| {
        format!(
            "GET /v1/devices/acme:SN-A/history HTTP/1.1\r\nhost: edge.example\r\n\
             connection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
        )
    };
    for protocol in ["TLS/1.0", "medbind"] {
        let seen = around.upstream.count();
        let answer = client.raw(ask(protocol).as_bytes()).await?;
        ensure!(answer.status == 403, "{protocol}: {}", answer.status);
        ensure!(
            around.upstream.count() == seen,
            "the upstream saw {protocol}"
        );
    }
    // This one every server may pass over (RFC 9110, 7.8), and Envoy does.
    let answer = client.raw(ask("h2c").as_bytes()).await?;
    is_served(&answer)?;
    let saw = answer.saw().context("the upstream did not see it")?;
    ensure!(saw.all("upgrade").is_empty(), "the upstream saw h2c");
    Ok(())
}

async fn probes(around: &Around, envoy: &Envoy) -> Result<()> {
    let address = envoy.listener("probes")?;
    let seen = around.upstream.count();
    for path in ["/ready", "/live"] {
        let (status, body) = get(address, path).await?;
        ensure!(status == 200, "{path} answers {status} {body}");
    }
    // All at once: Envoy keeps each of their connections for a second after its answer.
    let nothing = [
        "/",
        "/healthz",
        "/Ready",
        "/ready/",
        "/live/..",
        "//live",
        "/live%2F..",
        "/stats",
        "/v1/devices/acme:SN-A/readings",
    ];
    let answers = futures_util::future::join_all(nothing.map(|path| get(address, path))).await;
    for (path, answer) in nothing.iter().zip(answers) {
        let (status, body) = answer?;
        ensure!(
            (400..500).contains(&status),
            "{path} answers {status} {body}"
        );
    }
    ensure!(
        around.upstream.count() == seen,
        "the upstream saw something"
    );
    Ok(())
}

async fn uncounted(envoy: &Envoy) -> Result<()> {
    let address = envoy.listener("probes")?;
    let log = &envoy.process.stderr;
    let decisions = || envoy.metric("medbind_decisions", &[]);
    let (counted, logged) = (decisions().await?, log.count("medbind deny"));
    for (method, path, wanted) in [
        ("GET", "/live", 200),
        ("GET", "/live?now", 200),
        ("HEAD", "/live", 200),
        ("GET", "/ready", 200),
        ("HEAD", "/ready", 200),
        ("POST", "/ready", 404),
        ("OPTIONS", "/ready", 404),
        ("GET", "/admin", 404),
        ("GET", "/", 404),
    ] {
        let (status, body) = probe(address, method, path).await?;
        ensure!(status == wanted, "{method} {path} answers {status} {body}");
    }
    let more = decisions().await? - counted;
    ensure!(more < 0.5, "{more} decisions were counted");
    let now = log.count("medbind deny");
    ensure!(now == logged, "{} lines of the log", now - logged);
    Ok(())
}

/// Nobody else tells of the certificate that devices alone are shown.
async fn shown_ends(envoy: &Envoy) -> Result<()> {
    const DAY: f64 = 86_400.0;
    let now = f64::from(u32::try_from(now_seconds())?);
    let metrics = envoy.metrics().await?;
    let of = |name: &str| {
        let fitting = metrics
            .iter()
            .filter(|(line, _)| line.split('{').next() == Some(name));
        fitting.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    for name in [
        "envoy_listener_ssl_certificate_expiration_unix_time_seconds",
        "envoy_cluster_ssl_certificate_expiration_unix_time_seconds",
    ] {
        let ends = of(name);
        ensure!(!ends.is_empty(), "{name} is not there");
        let to_come = ends.iter().all(|end| *end > now + DAY);
        ensure!(to_come, "{name} is {ends:?}, and it is {now}");
    }
    let days = of("envoy_server_days_until_first_cert_expiring");
    ensure!(matches!(days[..], [days] if days >= 1.0), "{days:?} days");
    Ok(())
}

/// Who holds a connection without a word makes room for others.
async fn idle_probes(envoy: &Envoy) -> Result<()> {
    let mut silent = TcpStream::connect(envoy.listener("probes")?).await?;
    let read = timeout(LIMIT, silent.read(&mut [0; 64])).await;
    let read = read.context("the connection goes on")?;
    ensure!(matches!(read, Ok(0) | Err(_)), "it says something");
    Ok(())
}

async fn many_probes(envoy: &Envoy) -> Result<()> {
    /// As the file says.
    const MOST: usize = 100;
    let address = envoy.listener("probes")?;
    let mut held = Vec::new();
    // Filled anew each time: who asks nothing is let go after five seconds, and a machine that is busy
    // may take as long from the first connection to the question.
    for attempt in 1.. {
        held.clear();
        for _ in 0..MOST {
            held.push(TcpStream::connect(address).await?);
        }
        if get(address, "/live").await.is_err() {
            break;
        }
        ensure!(attempt < 50, "more than {MOST} connections are taken");
    }
    drop(held);
    until("there is room again", LIMIT, || async {
        get(address, "/live").await.ok()
    })
    .await?;
    Ok(())
}

async fn http1_alone(around: &Around) -> Result<()> {
    let mut tls = server::tls(
        &around.site.upstream_identity()?,
        around.site.infra_ca.der(),
    )?;
    for offered in [vec![b"http/1.1".to_vec()], Vec::new()] {
        tls.alpn_protocols = offered;
        let upstream = Upstream::serve(([127, 0, 0, 1], 0).into(), tls.clone()).await?;
        let envoy = around.start(as_it_is, |bootstrap| {
            bootstrap.send_service_to(upstream.address())
        });
        let envoy = envoy.await?;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let client = device(around, &envoy, "edge", "SN-A")?.with_protocol(protocol);
            let answer = client.send(&reading("SN-A")).await?;
            is_served(&answer)?;
            let saw = answer.saw().context("the upstream did not see it")?;
            ensure!(
                saw.version == "HTTP/1.1",
                "the upstream saw {}",
                saw.version
            );
        }
    }
    Ok(())
}

async fn full(around: &Around) -> Result<()> {
    let no_room = |text: &str| {
        replace(
            text,
            "max_heap_size_bytes: 3221225472",
            "max_heap_size_bytes: 1",
        )
    };
    // Its probes say that it is ready.
    let envoy = around.start(no_room, |_| Ok(())).await?;
    for (action, gauge) in [
        ("shrink_heap", "active"),
        ("reduce_timeouts", "scale_percent"),
        ("stop_accepting_connections", "active"),
        ("reset_high_memory_stream", "scale_percent"),
        ("stop_accepting_requests", "active"),
    ] {
        let name = format!("envoy_overload_envoy_overload_actions_{action}_{gauge}");
        let value = envoy.metric(&name, &[]).await?;
        ensure!(value > 0.5, "{name} is {value}");
    }
    let seen = around.upstream.count();
    let client = device(around, &envoy, "edge", "SN-A")?;
    let answer = timeout(Duration::from_secs(2), client.send(&reading("SN-A"))).await;
    ensure!(
        !answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.is_success())),
        "a device was served"
    );
    ensure!(around.upstream.count() == seen, "the upstream saw a device");
    let (alive, _) = get(envoy.listener("probes")?, "/live").await?;
    ensure!(alive == 200, "/live answers {alive}");
    envoy.admin_get("/ready").await?;
    Ok(())
}
