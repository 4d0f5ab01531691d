//! What must happen, as data: the scenario table, and the two runners that
//! carry it out.
//!
//! One table. The first runner drives the filter over a fake host, natively;
//! the second drives the compiled module in a real Envoy with real mutual TLS
//! and a real registry. Both read the same bootstrap of Envoy, and both assert
//! the same: the status, the deny code, what the upstream saw, and the counter
//! that moved. What is no row of a table, but a story, is listed in `special`,
//! `restart` and `shipped`; `leftovers` is about the runs themselves.

pub mod answers;
pub mod crowd;
pub mod fleet;
pub mod forwarded;
pub mod leftovers;
pub mod lists;
pub mod live;
pub mod load;
pub mod logs;
pub mod native;
pub mod on_demand;
pub mod outage;
pub mod real;
pub mod redeploy;
pub mod registry;
pub mod report;
pub mod restart;
pub mod row;
pub mod sessions;
pub mod shipped;
pub mod shipped_links;
pub mod shipped_live;
pub mod shipped_names;
pub mod shipped_strangers;
pub mod shipped_trust;
pub mod special;
pub mod story;
pub mod table;
pub mod tokens;
pub mod upgrade;
pub mod world;
