//! What does a person's token do, besides naming an account?

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use tokio::time::timeout;

use super::fleet::ACCOUNT;
use super::real::Stage;
use super::report::Report;
use super::story::{LIMIT, case, is_code, is_served, listen, reading};
use crate::certificate::now_seconds;
use crate::client::{Ask, Protocol, drain};
use crate::token::{Algorithm, Flaw, Token};

/// How long the token of an event stream lasts, in seconds.
const LIFE: i64 = 3;

/// All of them.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "an account's event stream is cut when its token ends",
        ends_with_its_token(stage, Protocol::Http1)
    );
    case!(
        report,
        "an account's event stream over HTTP/2 is cut when its token ends",
        ends_with_its_token(stage, Protocol::Http2)
    );
    case!(report, "a token in the query is none", in_the_query(stage));
    case!(
        report,
        "the upstream sees no token, but behind a shadow guard it sees what was sent",
        what_the_upstream_sees(stage)
    );
}

async fn ends_with_its_token(stage: &Stage, protocol: Protocol) -> Result<()> {
    let client = stage.client("edge", None)?.with_protocol(protocol);
    let mut connection = client.connect().await?;
    let cut = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    let end = now_seconds() + LIFE;
    let token = stage.world.site.tokens.good_until(ACCOUNT, end)?;
    let body = listen(&mut connection, "SN-A", Some(&token)).await?;
    let drained = timeout(LIMIT, drain(body))
        .await
        .context("the stream goes on")?;
    let since = |moment: jiff::Timestamp| moment.as_millisecond() - end * 1000;
    let late = since(jiff::Timestamp::now());
    ensure!(late >= 0, "it was cut {late} ms after the token's end");
    let last = since(drained.last);
    println!("      the token's end to the last event: {last} ms, to cut: {late} ms");
    ensure!(!drained.clean, "the stream came to a clean end");
    let counted = stage.envoy.metric("medbind_streams_cut", &[]).await?;
    ensure!(counted > cut, "the cut was not counted");
    let again = Ask::get("/v1/account").header("authorization", &format!("Bearer {token}"));
    is_code(&client.send(&again).await?, DenyCode::NoAccount)
}

fn good(stage: &Stage) -> Result<String> {
    stage
        .world
        .site
        .tokens
        .good_until(ACCOUNT, now_seconds() + 300)
}

async fn in_the_query(stage: &Stage) -> Result<()> {
    let token = good(stage)?;
    let nobody = stage.client("edge", None)?;
    let ask = Ask::get("/v1/account").header("authorization", &format!("Bearer {token}"));
    is_served(&nobody.send(&ask).await?)?;
    let ask = Ask::get(format!("/v1/account?access_token={token}"));
    is_code(&nobody.send(&ask).await?, DenyCode::NoAccount)
}

async fn what_the_upstream_sees(stage: &Stage) -> Result<()> {
    let forged = stage.world.site.tokens.token(Token {
        subject: ACCOUNT,
        algorithm: Algorithm::EdDsa,
        flaw: Some(Flaw::Key),
    })?;
    let good = good(stage)?;
    let tokens = [None, Some(&forged), Some(&good)];
    let history = || Ask::get("/v1/devices/acme:SN-A/history");
    let with = |ask: Ask, token: Option<&String>| match token {
        Some(token) => ask.header("authorization", &format!("Bearer {token}")),
        None => ask,
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // As a device, and as whoever the token names.
        let device = stage.device("edge", "SN-A")?.with_protocol(protocol);
        let person = stage.client("edge", None)?.with_protocol(protocol);
        for token in tokens {
            let mut served = vec![
                device.send(&with(reading("SN-A"), token)).await?,
                person.send(&with(Ask::get("/healthz"), token)).await?,
            ];
            let answer = person.send(&with(history(), token)).await?;
            if token == Some(&good) {
                served.push(answer);
            } else {
                is_code(&answer, DenyCode::NoPeerCertificate)?;
            }
            for answer in served {
                is_served(&answer)?;
                let saw = answer.saw().context("the upstream did not see it")?;
                let tokens = saw.all("authorization");
                ensure!(tokens.is_empty(), "the upstream saw {tokens:?}");
                let text = format!("{saw:?}");
                for token in tokens_in(&forged).chain(tokens_in(&good)) {
                    ensure!(!text.contains(token), "the upstream saw a token: {text}");
                }
            }
        }
    }
    let shadowed = stage.device("shadow", "SN-A")?;
    let answer = shadowed.send(&with(reading("SN-A"), Some(&forged))).await?;
    is_served(&answer)?;
    let saw = answer.saw().context("the upstream did not see it")?;
    let expected = format!("Bearer {forged}");
    ensure!(
        saw.all("authorization") == [expected.as_str()],
        "behind a shadow guard the upstream saw {:?}",
        saw.all("authorization")
    );
    Ok(())
}

/// The parts that no other text has.
fn tokens_in(token: &str) -> impl Iterator<Item = &str> {
    token.split('.').skip(1)
}
