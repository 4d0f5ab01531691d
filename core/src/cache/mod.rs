//! What does this edge know of the registry? The binding cache in proxy-wasm shared data.
//!
//! | key | value |
//! | --- | --- |
//! | `mb1/l` | the leader's lease ([`lease`]) |
//! | `mb1/n` | the number of the synchroniser that began last ([`number`]) |
//! | `mb1/c` | the control record ([`Control`]): which history answers, how far it is read, how fresh |
//! | `mb1/b<n>` | a bucket ([`bucket`]): the records of the devices whose hash leads there |
//!
//! Shared data has no delete, no expiry and no bound. So the number of buckets is fixed when the
//! cache is made, and a bucket's octets are rewritten in place. `1` in the names is the version of
//! this layout: a module of another layout neither reads these keys nor breaks them.
//!
//! **Generations.** Each history of the registry that is read has a number of its own, which only
//! goes up. A bucket names at most two of them, and each record carries a bit for either. A new
//! history is read beside the one that answers; a record that is the same in both only gets its
//! second bit. The switch is one write to the control record, and what only the old history held
//! is swept afterwards.
//!
//! **Revoked stays.** A record that was once seen as revoked is seen by the readers of every
//! generation, is never replaced by another state, and outlives the sweep.
//!
//! **Two leaders by mistake.** A leader's term is in its lease and in everything it writes; who
//! meets a higher term stops. Each write is a compare-and-swap, a revision never goes down within
//! a generation, and a generation's bit is only given to a younger one: so the worst that two can
//! do is the same work twice. A change that one has written and could not tell of is told of by the
//! other, which is given it too: whatever the feed tells of raises the number of changes, also where
//! the octets stand there already.
//!
//! **A change** names the buckets that it is in ([`Changes`]), so that a worker looks up again what
//! may have changed, and no more. A change that is in many, or that cannot be told, is in all.
//!
//! **Trust.** Whatever runs under the same `vm_id` can write here. Octets that are not of this
//! layout are never guessed at: they read as "unavailable", never as an answer.

mod bucket;
mod changes;
mod codec;
mod control;
mod heard;
mod lease;
mod memory;
mod number;
mod read;
mod record;
mod shared_data;
mod write;

pub use changes::{Buckets, Changed, Changes};
pub use control::{Control, History, MAX_REGISTRY_NAME_OCTETS, RegistryAddress};
pub use heard::Heard;
pub use lease::{Candidacy, Candidate, Leadership, Patience, Place, give_back, lead};
pub use memory::MemorySharedData;
pub use number::draw_number;
pub use read::{Cache, CacheAnswer, Kept, View};
pub use shared_data::{CacheError, SharedData, SharedDataError};
pub use write::{Applied, Swept, Writer};

#[cfg(test)]
mod tests;

#[cfg(all(test, not(target_arch = "wasm32")))]
mod model;
