//! What do the logs hold of what a story is about?

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::{Value, json};

use super::fleet::ACCOUNT;
use super::real::Stage;
use super::registry::Claim;
use super::story::{LIMIT, is_code, is_served, reading, wait_served};
use crate::certificate::{Identity, Spec, now_seconds};
use crate::client::{Answer, Ask};
use crate::wait::until;

const SERIAL: &str = "SN-LOGGED";
/// The fields of a line of the log of accesses, in `envoy/http.yaml`.
const FIELDS: [&str; 13] = [
    "time",
    "request_id",
    "method",
    "protocol",
    "tls",
    "status",
    "flags",
    "code",
    "device",
    "class",
    "duration_ms",
    "received",
    "sent",
];

/// What a story is about.
struct Story {
    claim: Claim,
    identity: Identity,
    token: String,
}

impl Story {
    fn path(&self, rest: &str) -> String {
        let Claim { code, secret } = &self.claim;
        let token = &self.token;
        format!("/v1/devices/acme:{SERIAL}/{rest}?code={code}&secret={secret}&token={token}")
    }

    /// Wherever a client could put it.
    fn everywhere(&self, ask: Ask) -> Ask {
        let Claim { code, secret } = &self.claim;
        ask.header("authorization", &format!("Bearer {}", self.token))
            .header("x-request-id", SERIAL)
            .header("user-agent", &format!("pump/{SERIAL}"))
            .header("referer", &format!("https://portal.example/{code}"))
            .header("x-claim", secret)
            .header("x-forwarded-for", SERIAL)
    }

    /// All that no log may hold.
    fn hidden(&self) -> Vec<String> {
        let Claim { code, secret } = &self.claim;
        let fixed = [
            "SN-",
            "acme:",
            ACCOUNT,
            "/v1/",
            "/v2/",
            "Bearer",
            "127.0.0.1",
            // How a certificate begins, as PEM and as DER in base 64.
            "BEGIN",
            "MII",
        ];
        let mut hidden = fixed.map(str::to_owned).to_vec();
        for text in [code, secret] {
            hidden.extend([text.clone(), text.replace('-', "")]);
        }
        hidden.push(self.identity.digest());
        hidden.extend(self.token.split('.').map(str::to_owned));
        hidden
    }
}

/// The log of accesses has its fields, and neither it nor Envoy's own log has an identity, an
/// account, a claim, a token, a path, or a part of a certificate, wherever a client puts it.
pub async fn logs(stage: &mut Stage) -> Result<()> {
    let story = Story {
        claim: stage.registry()?.hold_active(SERIAL).await?,
        identity: stage.world.site.device_ca.issue(&Spec::device(SERIAL))?,
        token: stage
            .world
            .site
            .tokens
            .good_until(ACCOUNT, now_seconds() + 300)?,
    };
    tell(stage, &story).await?;
    let process = &stage.envoy.process;
    let hidden = story.hidden();
    let accesses = stage.envoy.access_log();
    let ids = request_ids(&accesses)?;
    let none_in = |line: &String| {
        // A random number can hold anything.
        let line = ids
            .iter()
            .fold(line.clone(), |line, id| line.replace(id, ""));
        let found = hidden.iter().find(|text| line.contains(text.as_str()));
        ensure!(found.is_none(), "a log holds {found:?}: {line}");
        Ok(())
    };
    process.stdout.lines().iter().try_for_each(none_in)?;
    let told = process.stderr.lines();
    // Envoy's own lines tell of listeners and clusters as it starts.
    let refusals = told.iter().filter(|line| line.contains("medbind deny"));
    ensure!(refusals.clone().count() >= 5, "a refusal is not in the log");
    refusals.clone().try_for_each(none_in)?;
    let Claim { code, secret } = &story.claim;
    for line in &told {
        let held = [SERIAL, code, secret, &story.token]
            .into_iter()
            .find(|text| line.contains(*text));
        ensure!(held.is_none(), "the log holds {held:?}: {line}");
    }
    well_formed(&accesses)
}

/// They are Envoy's own, whatever a client sends. What is no request has none.
fn request_ids(lines: &[Value]) -> Result<Vec<&str>> {
    let ids: Vec<_> = lines
        .iter()
        .filter_map(|line| line["request_id"].as_str())
        .collect();
    for id in &ids {
        let octets = |octet: u8| octet.is_ascii_hexdigit() || octet == b'-';
        ensure!(id.len() == 36 && id.bytes().all(octets), "{id} is no UUID");
    }
    Ok(ids)
}

/// What is permitted and what is refused, in many ways, until the logs have it.
async fn tell(stage: &mut Stage, story: &Story) -> Result<()> {
    let device = stage.client("edge", Some(&story.identity))?;
    wait_served(&device, SERIAL).await?;
    let nobody = stage.client("edge", None)?;
    let secret = &story.claim.secret;
    let upload = Ask::post(story.path("readings"), secret.clone());
    for (client, ask) in [
        (&device, story.everywhere(reading(SERIAL))),
        (&device, story.everywhere(upload)),
        (&nobody, story.everywhere(Ask::get(story.path("history")))),
    ] {
        is_served(&client.send(&ask).await?)?;
    }
    let stranger = stage.world.site.stranger_ca.issue(&Spec::device(SERIAL))?;
    let stranger = stage.client("open", Some(&stranger))?;
    let other = stage.device("edge", "SN-A")?;
    let no_rule = Ask::get(format!("/v2/{SERIAL}"));
    for (client, ask, code) in [
        (&stranger, reading(SERIAL), DenyCode::UnknownIssuer),
        (&other, reading(SERIAL), DenyCode::NotPermitted),
        (&device, no_rule, DenyCode::NotPermitted),
    ] {
        let answer = client.send(&story.everywhere(ask)).await?;
        is_code(&answer, code)?;
        without_secrets(&answer, secret)?;
    }
    let answer = nobody.send(&Ask::get(story.path("history"))).await?;
    is_code(&answer, DenyCode::NoPeerCertificate)?;
    without_secrets(&answer, secret)?;
    // The last of all, so that the lines of the others are there when its own is.
    stage
        .registry()?
        .act(&format!("acme:{SERIAL}"), "suspend")
        .await?;
    until("it is refused", LIMIT, || async {
        let answer = device.send(&story.everywhere(reading(SERIAL))).await.ok()?;
        is_code(&answer, DenyCode::BindingSuspended).ok()
    })
    .await?;
    let process = &stage.envoy.process;
    for (log, name) in [
        (&process.stdout, "the log of accesses"),
        (&process.stderr, "the log"),
    ] {
        until(&format!("the refusal is in {name}"), LIMIT, || async {
            log.find("binding_suspended")
        })
        .await?;
    }
    Ok(())
}

/// Each line has all the fields and no other, and says who by a pseudonym.
fn well_formed(lines: &[Value]) -> Result<()> {
    let fields = BTreeSet::from(FIELDS);
    for line in lines {
        let there = line.as_object().context("a line is no object")?.keys();
        let there: BTreeSet<_> = there.map(String::as_str).collect();
        ensure!(there == fields, "a line has other fields: {line}");
    }
    let says = |status: u16, code: Value, class: Value| {
        let line = lines.iter().rev().find(|line| {
            line["status"] == status && line["code"] == code && line["class"] == class
        });
        let device = line.and_then(|line| line["device"].as_str());
        ensure!(
            device.is_some_and(|device| device.len() == 16),
            "the log of accesses has no line of {status} with code {code}, class {class} and a \
             pseudonym; its last one: {:?}",
            lines.last()
        );
        Ok(())
    };
    says(200, Value::Null, json!("cgm"))?;
    says(403, json!("binding_suspended"), Value::Null)
}

fn without_secrets(answer: &Answer, secret: &str) -> Result<()> {
    let text = format!("{:?} {}", answer.headers, answer.text());
    for hidden in [SERIAL, ACCOUNT, secret] {
        ensure!(!text.contains(hidden), "the answer holds {hidden}: {text}");
    }
    Ok(())
}
