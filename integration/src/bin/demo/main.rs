//! The whole story, told with real requests: devices, an Envoy with the module, a registry, a
//! device service, all over TLS.

mod edge;
mod parts;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use medbind_integration::ending::{told, unless_told};
use medbind_workshop::progress;
use tokio::time::Instant;

use crate::story::Story;

/// Tells the whole story with real requests.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let keep = Arguments::parse().keep;
    let mut story = None;
    let telling = async {
        match tell(keep).await {
            Ok(all) => {
                story = Some(all);
                ExitCode::SUCCESS
            }
            Err(error) => {
                anstream::eprintln!();
                progress::report(&error);
                ExitCode::FAILURE
            }
        }
    };
    let code = unless_told(Box::pin(telling)).await;
    if keep && story.is_some() {
        told().await;
        drop(story);
        anstream::println!("\nEverything is ended.");
    }
    code
}

async fn tell(keep: bool) -> Result<Story> {
    let start = Instant::now();
    let mut story = Story::set_up().await?;
    story.provisioned()?;
    story.without_a_certificate().await?;
    story.before_the_claim().await?;
    story.claimed().await?;
    story.forged().await?;
    story.renewed().await?;
    story.suspended_and_revoked().await?;
    story.registry_killed().await?;
    story.explained()?;
    story.close(keep, start.elapsed());
    Ok(story)
}
