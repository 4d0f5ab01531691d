//! Does a request that is under way go on?

use std::cell::RefMut;
use std::time::Duration;

use medbind_core::cache::Changed;
use medbind_core::decision::{Decision, Denial, Lookup, decide_again};
use medbind_core::deny::{DenyReason, LookupFailure, Unavailable};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use super::ask::MOST_LOOKUPS;
use super::{Guard, Memory, TICK};
use crate::host::Host;
use crate::live::Doubt;
use crate::lookup::Wait;
use crate::telemetry::DenyEvent;

/// How many requests under way are decided again in one tick: some 10 ms of it. A change names the
/// devices that it is about, so that this is enough for as many requests as there may be; where all
/// have to be, those are the ones that wait their turn.
pub(super) const MOST_RECHECKS: usize = 1_024;
/// How many calls a worker has open for requests under way alone; the others keep their turn. All
/// workers share the connections that `envoy/http.yaml` lets the cluster of the registry have, and the
/// calls of requests that arrive go by them too: what waits there beyond its deadline has failed, and
/// is asked again.
pub(super) const MOST_CALLS_UNDER_WAY: usize = 4;
/// The same where something is known against the request that is asked about.
const MOST_URGENT_CALLS: usize = 16;
const fn most_calls(urgent: bool) -> usize {
    if urgent {
        MOST_URGENT_CALLS
    } else {
        MOST_CALLS_UNDER_WAY
    }
}

fn ticks(span: Duration) -> u32 {
    let ticks = span.as_millis().checked_div(TICK.as_millis());
    ticks.map_or(0, |ticks| u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// What one callback does for requests under way, and leaves to be done.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Whether the host takes no call now.
    pub(super) refused: bool,
    /// To be reset: once nothing is borrowed, since a reset may call back in at once.
    cut: Vec<u32>,
    /// To be decided again by the next tick, and not before.
    pub(super) waits: Vec<u32>,
}

impl<H: Host> Guard<H> {
    /// Decides again for the requests under way, where something may have changed: as many as a
    /// tick has time for, what is known to have changed first.
    pub(super) fn recheck(
        &self,
        memory: &mut Memory,
        changed: &Changed,
        now: Timestamp,
        round: &mut Round,
    ) {
        let Memory { bindings, live, .. } = memory;
        if live.is_empty() {
            return;
        }
        let max_stale = self.config.policy.max_stale();
        let fresh = matches!(bindings.freshness(now), Ok(age) if age <= max_stale);
        if let (Changed::Buckets(buckets), Ok(view)) = (changed, bindings.view()) {
            live.queue_first(&|one| {
                one.devices()
                    .any(|device| buckets.contains(view.bucket_of(device)))
            });
        }
        live.queue_ended(now);
        if *changed == Changed::Everything || !fresh {
            live.queue_all();
        }
        self.take_turns(memory, MOST_RECHECKS, false, now, round);
    }

    /// Decides again for those whose turn it is, at most so many, and only for as long as calls can
    /// be made where `while_calls` says so.
    pub(super) fn take_turns(
        &self,
        memory: &mut Memory,
        most: usize,
        while_calls: bool,
        now: Timestamp,
        round: &mut Round,
    ) {
        for _ in 0..most {
            let calls = most_calls(memory.live.next_is_urgent());
            if while_calls && (round.refused || memory.lookups.under_way() >= calls) {
                break;
            }
            let Some(context) = memory.live.take_next() else {
                break;
            };
            self.recheck_one(memory, context, None, now, round);
        }
    }

    /// Decides again for one request under way. What only the registry can say is asked, as soon as
    /// a call can be made. It is cut by what the registry says, and where that cannot be had for too
    /// long.
    pub(super) fn recheck_one(
        &self,
        memory: &mut Memory,
        context: u32,
        said: Option<(&DeviceId, &Lookup)>,
        now: Timestamp,
        round: &mut Round,
    ) {
        let policy = &self.config.policy;
        let Some(one) = memory.live.get_mut(context) else {
            return;
        };
        let mut bindings = memory.bindings.with(&self.host, said);
        let facts = one.asked.facts();
        let lookups = one.asked.lookups.saturating_add(1);
        let urgent = one.doubt.is_urgent();
        let needs_binding = one.permit.binding().is_some();
        let decision = decide_again(&one.permit, policy, &facts, &mut bindings, now);
        let in_doubt = needs_binding && memory.bindings.freshness(now) == Err(Unavailable::Clock);
        let denial = match decision {
            Decision::Permit(permit) => {
                let end = permit.valid_until();
                one.permit = permit;
                one.asked.lookups = 0;
                one.doubt = Doubt::default();
                memory.live.ends(end);
                return;
            }
            // The synchroniser asks the registry at once, and its answer puts this right.
            Decision::Deny(_) if in_doubt && memory.live.may_wait_urgently(context) => {
                return round.waits.push(context);
            }
            Decision::Deny(denial) => denial,
            Decision::AskRegistry(device) if memory.lookups.has_under_way(&device, context) => {
                return;
            }
            Decision::AskRegistry(device) => {
                // No call is made for one whose second is over.
                let in_time = !urgent || memory.live.may_wait(context);
                let has_room = memory.lookups.under_way() < most_calls(urgent);
                let can_ask = memory.lookups.is_open(&device) || (has_room && !round.refused);
                let mut is_missing = lookups > MOST_LOOKUPS;
                if in_time && lookups <= MOST_LOOKUPS && can_ask {
                    is_missing = true;
                    let asked = self.ask(memory, context, None, Wait::UnderWay, &device);
                    if asked.is_ok() {
                        if let Some(one) = memory.live.get_mut(context) {
                            one.asked.lookups = lookups;
                        }
                        return;
                    }
                    round.refused = true;
                }
                // Its time without the registry's word runs where it was asked for it.
                let may_wait = if is_missing {
                    memory.live.may_wait(context)
                } else {
                    let most = ticks(self.config.policy.max_stale());
                    memory.live.may_wait_for_its_turn(context, most)
                };
                if may_wait {
                    return round.waits.push(context);
                }
                // Fail closed: whether the permit still holds cannot be found out.
                let failure = if lookups > MOST_LOOKUPS {
                    LookupFailure::Answer
                } else {
                    LookupFailure::Connection
                };
                Denial {
                    reason: DenyReason::LookupFailed(failure),
                    rule: None,
                    device: Some(device),
                }
            }
        };
        let Some(one) = memory.live.remove(context) else {
            return;
        };
        let device = self.name(memory, denial.device.as_ref());
        self.metrics.cut(&self.host, denial.reason.code());
        self.log(
            DenyEvent::Cut,
            &one.asked.request,
            &denial,
            device.as_deref(),
        );
        round.cut.push(context);
    }

    /// Who has to wait has a turn again, and who has ended is reset.
    pub(super) fn finish(&self, mut memory: RefMut<'_, Memory>, round: &Round) {
        for context in &round.waits {
            memory.live.queue_again(*context);
        }
        drop(memory);
        for context in &round.cut {
            if self.host.set_effective_context(*context).is_ok() {
                let _ = self.host.reset_stream();
            }
        }
        if !round.cut.is_empty() {
            let _ = self.host.set_effective_context(self.active.get());
        }
    }
}
