//! What if the registry answers badly? A scripted one does, before a real Envoy: what is known
//! stays in force, and the next good answer is taken.

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::{Value, json};

use super::fleet::{ACCOUNT, CLASS, fleet};
use super::real::Stage;
use super::report::Report;
use super::story::{LIMIT, case, is_code, is_served, reading, wait_refused, wait_served};
use crate::client::Client;
use crate::feed::Behaviour;
use crate::wait::until;

/// Ways to spoil an answer.
fn spoiled() -> [(&'static str, Behaviour); 4] {
    let good = Behaviour::default;
    [
        (
            "an answer that is cut short is not taken, and the next one is",
            Behaviour { cut: 9, ..good() },
        ),
        (
            "an answer that is too large is not taken, and the next one is",
            Behaviour {
                padding: 2 << 20,
                ..good()
            },
        ),
        (
            "an answer out of order is not taken, and the next one is",
            Behaviour {
                reversed: true,
                ..good()
            },
        ),
        (
            "an answer of status 500 is not taken, and the next one is",
            Behaviour {
                status: Some(500),
                ..good()
            },
        ),
    ]
}

/// All of them.
pub async fn bad(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "records that nobody here knows are counted",
        counted(stage)
    );
    for (number, (name, behaviour)) in spoiled().into_iter().enumerate() {
        let serial = format!("SN-SPOILED-{number}");
        case!(report, name, not_taken(stage, &serial, behaviour));
    }
    case!(
        report,
        "a registry whose clock is hours off lets nobody in until it is right",
        clock(stage)
    );
    case!(
        report,
        "another history comes in beside the old one, and no revocation is lost",
        other_history(stage)
    );
    case!(
        report,
        "a history that forked is read from its beginning",
        forked(stage)
    );
}

fn record(serial: &str, state: &str) -> Value {
    json!({
        "kind": "binding", "device": format!("acme:{serial}"), "account": ACCOUNT, "state": state,
        "class": CLASS, "epoch": 1, "expires_at": null, "pins": [],
    })
}

async fn counted(stage: &mut Stage) -> Result<()> {
    let counted = stage.envoy.metric("medbind_records_unrecognised", &[]);
    let counted = counted.await?;
    ensure!((counted - 3.0).abs() < 0.1, "{counted} were counted, of 3");
    Ok(())
}

async fn not_taken(stage: &mut Stage, serial: &str, behaviour: Behaviour) -> Result<()> {
    let device = stage.device("edge", serial)?;
    let bystander = stage.device("edge", "SN-A")?;
    let script = stage.script()?;
    script.say(record(serial, "active"));
    wait_served(&device, serial).await?;
    script.behave(behaviour);
    let before = script.asked();
    // Two, so that they can be told in the wrong order.
    script.say_all(vec![
        record(serial, "suspended"),
        record("SN-NEXT", "active"),
    ]);
    let asked_again = until("it is asked again, and again", LIMIT, || async {
        (script.asked() >= before + 2).then_some(())
    });
    asked_again.await?;
    for _ in 0..10 {
        is_served(&device.send(&reading(serial)).await?)?;
        is_served(&bystander.send(&reading("SN-A")).await?)?;
    }
    script.behave(Behaviour::default());
    wait_refused(&device, serial, DenyCode::BindingSuspended).await?;
    wait_served(&bystander, "SN-A").await?;
    Ok(())
}

async fn clock(stage: &mut Stage) -> Result<()> {
    let device = stage.device("edge", "SN-A")?;
    let script = stage.script()?;
    script.behave(Behaviour {
        clock_offset: 3 * 3600,
        ..Behaviour::default()
    });
    script.say(record("SN-CLOCK", "active"));
    wait_refused(&device, "SN-A", DenyCode::BindingsUnavailable).await?;
    stage.wait_until(503, "bindings_unavailable").await?;
    let script = stage.script()?;
    script.behave(Behaviour::default());
    script.say(record("SN-CLOCK", "suspended"));
    stage.wait_until(200, "\"ready\":true").await?;
    wait_served(&device, "SN-A").await?;
    Ok(())
}

/// Waits until `device` is refused, while the other one is served all the time.
async fn refused_while_served(
    (device, serial, code): (&Client, &str, DenyCode),
    (other, other_serial): (&Client, &str),
) -> Result<()> {
    let mut served = 0;
    let switched = async {
        loop {
            // One that is under way at the switch is cut.
            let answer = device.send(&reading(serial)).await.ok();
            is_served(&other.send(&reading(other_serial)).await?)
                .with_context(|| format!("{served} times it was"))?;
            served += 1;
            if answer.is_some_and(|answer| is_code(&answer, code).is_ok()) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(LIMIT, switched)
        .await
        .context("the new history does not come in")??;
    wait_refused(device, serial, code).await
}

async fn other_history(stage: &mut Stage) -> Result<()> {
    let device = stage.device("edge", "SN-A")?;
    let other = stage.device("edge", "SN-B")?;
    let revoked = stage.device("edge", "SN-REVOKED")?;
    let mut records = fleet()
        .into_iter()
        .map(|device| device.record(0))
        .collect::<Vec<_>>();
    // In small pages: the old history has to serve for a while.
    let script = stage.script()?;
    script.behave(Behaviour {
        page: Some(3),
        ..Behaviour::default()
    });
    records
        .retain(|record| record["device"] != "acme:SN-A" && record["device"] != "acme:SN-REVOKED");
    records.push(record("SN-A", "suspended"));
    // Older than the revocation, as in a backup that was brought back.
    records.push(record("SN-REVOKED", "active"));
    script.begin_history("history-2", records);
    refused_while_served(
        (&device, "SN-A", DenyCode::BindingSuspended),
        (&other, "SN-B"),
    )
    .await?;
    wait_refused(&revoked, "SN-REVOKED", DenyCode::BindingRevoked).await?;
    stage.script()?.behave(Behaviour::default());
    Ok(())
}

async fn forked(stage: &mut Stage) -> Result<()> {
    let device = stage.device("edge", "SN-B")?;
    let other = stage.device("edge", "SN-C")?;
    let script = stage.script()?;
    script.say(record("SN-C", "active"));
    wait_served(&other, "SN-C").await?;
    // The same name, and a past in which less has happened.
    let records = vec![record("SN-C", "active"), record("SN-B", "suspended")];
    script.begin_history("history-2", records);
    refused_while_served(
        (&device, "SN-B", DenyCode::BindingSuspended),
        (&other, "SN-C"),
    )
    .await?;
    // What only the other branch had is gone.
    let gone = stage.device("edge", "SN-BEHIND")?;
    wait_refused(&gone, "SN-BEHIND", DenyCode::UnknownDevice).await?;
    ensure!(stage.script()?.head() == 2, "something was said besides");
    Ok(())
}
