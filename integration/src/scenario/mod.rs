//! What must happen, as data: the scenario table, and the two runners that
//! carry it out.
//!
//! One table. The first runner drives the filter over a fake host, natively;
//! the second drives the compiled module in a real Envoy with real mutual TLS
//! and a real registry. Both read the same bootstrap of Envoy, and both assert
//! the same: the status, the deny code, what the upstream saw, and the counter
//! that moved. What is no row of a table, but a story, stands in `special`,
//! `answers`, `restart` and `shipped`; `leftovers` is about the runs themselves.

pub mod answers;
pub mod fleet;
pub mod leftovers;
pub mod load;
pub mod native;
pub mod real;
pub mod registry;
pub mod report;
pub mod restart;
pub mod row;
pub mod shipped;
pub mod special;
pub mod story;
pub mod table;
pub mod world;
