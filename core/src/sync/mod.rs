//! What does the synchroniser do next? A state machine that keeps the cache like the registry.
//!
//! It has no clock and makes no call: it is told the time, answers what to fetch, and is handed
//! what came back. Whoever runs it calls [`Synchroniser::on_tick`] several times a second.
//!
//! - **Who leads** is settled by a lease in shared data. A singleton on the main thread goes
//!   before the workers; where none leads, one worker does.
//! - **A history is read** from its beginning in pages, beside the one that answers, and answers
//!   itself once it is complete. Where only looked-up devices are kept there is nothing to read:
//!   only the feed's head is asked for.
//! - **Then changes are waited for** by long poll. An answer that reaches the head is the
//!   heartbeat; only such a one makes the cache fresh.
//! - **Whatever is out of order is refused** whole and asked for again, with jittered exponential
//!   back-off: an answer of another history, one whose head went back, one that is cut short, too
//!   large or of another version, one that answers an older request. Meanwhile the cache gets
//!   older, and is refused by its readers once it is too old.
//! - **A history that is gone** (410), whose answers carry another name, or whose newest revision
//!   goes back while it is read, is read anew.
//! - **A record that cannot be read** denies the device that it names. One that does not even say
//!   which device it is about cannot be followed: the history is then read anew too, at most once
//!   in [`SyncSettings::reload_interval`]; the device that it hides is not in what is read, and so
//!   is refused from the switch on. Fail closed, and the fleet's feed goes on.
//! - **No call takes long**: a page is applied, and a history that is gone is swept, in bounded
//!   steps.

mod machine;
mod progress;
mod random;
mod settings;

pub use machine::Synchroniser;
pub use settings::{FetchId, SyncAction, SyncLogLevel, SyncResponse, SyncSettings};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

#[cfg(all(test, not(target_arch = "wasm32")))]
mod model;
