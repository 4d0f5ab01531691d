//! What can be asked?
#![expect(
    clippy::doc_markdown,
    reason = "clap prints these comments as they are, on a terminal"
)]

mod ca;
mod change;
mod command;
mod edge;
mod guard;
mod look;
mod provision;
mod registry;
mod value;

pub use self::ca::{Ca, CaInit, CaIssue, CaRenew, CaShow};
pub use self::change::{Change, Claim, Enrol, EnrolFormat, Expire, PinArgs, Revoke};
pub use self::command::{Cli, Command, Global, Shell};
pub use self::edge::{Edge, EdgeInit};
pub use self::guard::{Check, Explain};
pub use self::look::{Audit, Export, List, Show, State};
pub use self::provision::{KeyType, Provision, Sources, YesNo};
pub use self::registry::{Backup, Serve, Stop};
