//! What does the registry say of a device, and to whom?

use std::sync::Arc;

use medbind_core::cache::{Cache, CacheError, Kept, View};
use medbind_core::decision::Lookup;
use medbind_core::deny::{LookupFailure, Unavailable};
use medbind_core::feed::{LookupAnswer, lookup_path};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use super::again::{MOST_RECHECKS, Round};
use super::settle::Stage;
use super::{Flow, Guard, Memory};
use crate::asked::Asked;
use crate::bindings::{LocalBindings, Shared};
use crate::host::{CallAnswer, Host};
use crate::lookup::{Behalf, Joined, Wait, Waiter};
use crate::telemetry::LookupEnd;

/// How often the registry is asked on behalf of one request.
pub(super) const MOST_LOOKUPS: u8 = 3;

/// A request that cannot wait for the registry's word, with what is to be taken for that word.
#[derive(Debug)]
pub(super) struct Unasked {
    pub(super) asked: Option<Asked>,
    pub(super) instead: Lookup,
}

impl Unasked {
    fn new(asked: Option<Asked>, instead: Lookup) -> Box<Self> {
        Box::new(Self { asked, instead })
    }
}

impl<H: Host> Guard<H> {
    /// Where the registry is: the one that the synchroniser follows, since what another says of a
    /// device cannot be kept beside it; before there is one, that of this guard's own configuration.
    pub(super) fn registry(&self, bindings: &LocalBindings) -> Option<(String, String)> {
        if let Some(registry) = bindings.view().ok().and_then(View::registry) {
            return Some((registry.cluster.clone(), registry.authority.clone()));
        }
        let registry = self.config.registry.as_ref()?;
        Some((registry.cluster.to_string(), registry.authority.to_string()))
    }

    /// Lets a request wait for the registry's word on `device`; hands it back with what is to be
    /// taken for that word where it cannot.
    pub(super) fn ask(
        &self,
        memory: &mut Memory,
        context: u32,
        asked: Option<Asked>,
        wait: Wait,
        device: &DeviceId,
    ) -> Result<(), Box<Unasked>> {
        if asked
            .as_ref()
            .is_some_and(|asked| asked.lookups > MOST_LOOKUPS)
        {
            return Err(Unasked::new(asked, Lookup::Failed(LookupFailure::Answer)));
        }
        let waiter = Waiter {
            context,
            wait,
            behalf: asked
                .as_ref()
                .map_or(Behalf::Device, |asked| asked.behalf(device)),
            asked,
        };
        match memory.lookups.join(device, waiter) {
            Joined::Waits => Ok(()),
            Joined::Full(waiter) => Err(Unasked::new(
                waiter.asked,
                Lookup::Unavailable(Unavailable::Busy),
            )),
            Joined::Calls => {
                let called = self.call(memory, device);
                // The calls that follow act on the request again.
                let _ = self.host.set_effective_context(context);
                let Err(failure) = called else {
                    return Ok(());
                };
                let own = memory.lookups.withdraw(device);
                let asked = own.and_then(|waiter| waiter.asked);
                Err(Unasked::new(asked, Lookup::Failed(failure)))
            }
        }
    }

    /// Makes the call for `device`, to be answered in the context whose callback runs.
    pub(super) fn call(&self, memory: &mut Memory, device: &DeviceId) -> Result<(), LookupFailure> {
        let caller = self.active.get();
        let timeout = self.config.bindings.lookup_timeout;
        let (cluster, authority) = self
            .registry(&memory.bindings)
            .ok_or(LookupFailure::Connection)?;
        self.host
            .set_effective_context(caller)
            .map_err(|_| LookupFailure::Connection)?;
        let token = self
            .host
            .get(&cluster, &authority, &lookup_path(device), timeout)
            .map_err(|_| LookupFailure::Connection)?;
        memory.lookups.called(device, token, caller, timeout);
        Ok(())
    }

    /// What the registry's answer says of `device`; `None` where the cache has it now, or the
    /// registry has to be asked again.
    pub(super) fn read_answer(
        &self,
        device: &DeviceId,
        answer: &CallAnswer,
        now: Timestamp,
    ) -> (Option<Lookup>, LookupEnd) {
        let failed = |failure| (Some(Lookup::Failed(failure)), LookupEnd::Failed);
        match answer.status {
            Some(200) => {}
            // What the host answers itself where nobody did in time, or nobody is there.
            Some(504) => return failed(LookupFailure::Timeout),
            Some(503) => return failed(LookupFailure::Connection),
            Some(_) | None => return failed(LookupFailure::Answer),
        }
        let Ok(answer) = LookupAnswer::parse(&answer.body, device) else {
            return failed(LookupFailure::Answer);
        };
        let end = match answer.binding {
            Some(_) => LookupEnd::Found,
            None => LookupEnd::Absent,
        };
        let ttl = self.config.bindings.negative_ttl;
        match Cache::new(&Shared(&self.host)).insert_lookup(now, &answer, ttl) {
            Ok(Kept::Stored | Kept::Overtaken) => (None, end),
            Ok(Kept::NoRoom) => {
                let said = answer
                    .binding
                    .map_or(Lookup::Absent, |binding| Lookup::Found(Arc::new(binding)));
                (Some(said), end)
            }
            Err(CacheError::Unavailable(reason)) => {
                (Some(Lookup::Unavailable(reason)), LookupEnd::Failed)
            }
            // Fail closed: whether the feed has gone past the answer cannot be said.
            Err(CacheError::Superseded | CacheError::Contended | CacheError::Host) => {
                failed(LookupFailure::Answer)
            }
        }
    }

    /// Decides for everyone who waited for `device`.
    pub(super) fn answered(
        &self,
        memory: &mut Memory,
        device: &DeviceId,
        said: Option<&Lookup>,
        now: Timestamp,
        round: &mut Round,
    ) {
        let failed = matches!(said, Some(Lookup::Failed(_)));
        let mut left = MOST_RECHECKS;
        let said = said.map(|said| (device, said));
        for waiter in memory.lookups.finish(device) {
            let context = waiter.context;
            match (waiter.wait, waiter.asked) {
                (Wait::Paused, Some(asked)) => {
                    if self.host.set_effective_context(context).is_err() {
                        continue;
                    }
                    let flow = self.settle(memory, context, asked, Stage::Answered, said, now);
                    if flow == Flow::Continue {
                        let _ = self.host.resume_request();
                    }
                }
                (Wait::Watched, Some(asked)) => {
                    self.settle(memory, context, asked, Stage::Answered, said, now);
                }
                (Wait::UnderWay, _) if failed && memory.live.may_wait(context) => {
                    round.waits.push(context);
                }
                (Wait::UnderWay, _) if left == 0 => round.waits.push(context),
                (Wait::UnderWay, _) => {
                    left = left.saturating_sub(1);
                    self.recheck_one(memory, context, said, now, round);
                }
                (Wait::Paused | Wait::Watched, None) | (Wait::Gone, _) => {}
            }
        }
    }
}
