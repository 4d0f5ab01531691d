//! Which stories are told where? What is no row of the table is one of these.

use anyhow::Result;

use super::answers;
use super::crowd::{self, FORGETFUL, crowd};
use super::forwarded;
use super::lists;
use super::live;
use super::logs::logs;
use super::on_demand;
use super::outage;
use super::real::Stage;
use super::report::Report;
use super::row::Place;
use super::sessions;
use super::story::case;
use super::tokens;
use super::upgrade;
use crate::bootstrap::Bootstrap;

/// Changes the bootstrap of the fleet's Envoy: the listeners that stories need besides.
pub fn listeners(bootstrap: &mut Bootstrap) -> Result<()> {
    forwarded::listeners(bootstrap)?;
    crowd::listener(bootstrap)
}

/// The stories that the place with the whole fleet is enough for.
pub async fn fleet(stage: &mut Stage, report: &mut Report, short: bool, full: bool) {
    live::in_the_middle(stage, report).await;
    // Everywhere where the guard has nothing else to go by.
    if !short || stage.line < (1, 38) {
        forwarded::stories(stage, report).await;
    }
    if short {
        return;
    }
    sessions::stories(stage, report).await;
    live::stories(stage, report).await;
    tokens::stories(stage, report).await;
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
    case!(report, "no log holds what a story is about", logs(stage));
    upgrade::stories(stage, report).await;
    Box::pin(lists::stories(stage, report)).await;
    case!(
        report,
        "known devices are served while the registry is down, and changes arrive after it is back",
        outage::registry_down(stage)
    );
}

/// After the rows of a place: what it becomes.
pub async fn after(place: Place, stage: &mut Stage, report: &mut Report) {
    match place {
        Place::Stale => {
            case!(
                report,
                "stale bindings are fresh again when the registry is back",
                outage::back(stage)
            );
        }
        Place::OnDemand => on_demand::stories(stage, report).await,
        Place::Script => answers::bad(stage, report).await,
        Place::Fleet | Place::NoSynchroniser => {}
    }
}
