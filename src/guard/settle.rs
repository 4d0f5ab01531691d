//! What becomes of a request: is it tagged and let in, refused, or does it wait for the registry?

use medbind_core::config::{LogIdentifiers, Mode};
use medbind_core::decision::{Decision, Denial, Lookup, Permit, decide};
use medbind_core::deny::{DenyReason, LookupFailure};
use medbind_core::identity::DeviceId;
use medbind_core::tag::tag_headers;
use medbind_core::time::Timestamp;

use super::{Flow, Guard, Memory, STATE_CLASS, STATE_DECISION, STATE_DEVICE};
use crate::asked::{ArrivingToken, Asked};
use crate::host::{Host, RequestMap};
use crate::live::{Doubt, UnderWay};
use crate::lookup::Wait;
use crate::reply::{self, RetryAfter};
use crate::request::Request;
use crate::telemetry::{DenyEvent, DenyLine, log_deny};

/// Where a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the callback of the request's headers.
    Arrived,
    /// After the registry's answer, for a request that may be paused.
    Answered,
}

impl<H: Host> Guard<H> {
    /// Decides, and carries it out on the effective context.
    pub(super) fn settle(
        &self,
        memory: &mut Memory,
        context: u32,
        mut asked: Asked,
        stage: Stage,
        said: Option<(&DeviceId, &Lookup)>,
        now: Timestamp,
    ) -> Flow {
        let policy = &self.config.policy;
        let mut bindings = memory.bindings.with(&self.host, said);
        let arriving = ArrivingToken::new(&self.host, &self.config.account_metadata, &asked.token);
        let facts = match stage {
            Stage::Arrived => asked.facts_with(&arriving),
            Stage::Answered => asked.facts(),
        };
        let decision = decide(policy, &facts, &mut bindings, now);
        if stage == Stage::Arrived && matches!(decision, Decision::AskRegistry(_)) {
            // The answer may come in another context, or after the request has gone on.
            arriving.read();
        }
        let device = match decision {
            Decision::Permit(permit) => {
                return self.permitted(memory, context, asked, permit, stage);
            }
            Decision::Deny(denial) => return self.denied(memory, &asked.request, &denial, stage),
            Decision::AskRegistry(device) => device,
        };
        asked.lookups = asked.lookups.saturating_add(1);
        let wait = match self.config.mode {
            Mode::Enforce => Wait::Paused,
            Mode::Shadow => Wait::Watched,
        };
        let unasked = match self.ask(memory, context, Some(asked), wait, &device) {
            Ok(()) if wait == Wait::Paused => return Flow::Pause,
            Ok(()) => return Flow::Continue,
            Err(unasked) => *unasked,
        };
        let Some(asked) = unasked.asked else {
            let reason = DenyReason::Internal("a request that waited was lost");
            return self.refuse_unread(&Request::default(), reason);
        };
        let said = Some((&device, &unasked.instead));
        let mut bindings = memory.bindings.with(&self.host, said);
        match decide(policy, &asked.facts(), &mut bindings, now) {
            Decision::Permit(permit) => self.permitted(memory, context, asked, permit, stage),
            Decision::Deny(denial) => self.denied(memory, &asked.request, &denial, stage),
            Decision::AskRegistry(device) => {
                // Fail closed: a request that needs yet another device while the registry cannot
                // be asked.
                let denial = Denial {
                    reason: DenyReason::LookupFailed(LookupFailure::Connection),
                    rule: None,
                    device: Some(device),
                };
                self.denied(memory, &asked.request, &denial, stage)
            }
        }
    }

    fn permitted(
        &self,
        memory: &mut Memory,
        context: u32,
        asked: Asked,
        permit: Permit,
        stage: Stage,
    ) -> Flow {
        let shadow = self.config.mode == Mode::Shadow;
        if !shadow {
            for (name, value) in tag_headers(&permit) {
                let set = self
                    .host
                    .set_header(RequestMap::Headers, name, value.as_bytes());
                if set.is_err() {
                    // Fail closed: an upstream must not see half a tag.
                    let denial = Denial {
                        reason: DenyReason::Internal("a tag cannot be written"),
                        rule: permit.rule_index(),
                        device: permit.device().cloned(),
                    };
                    return self.denied(memory, &asked.request, &denial, stage);
                }
            }
        }
        self.metrics.permit(&self.host);
        if !shadow || stage == Stage::Arrived {
            let device = self.name(memory, permit.device());
            self.write_device(device.as_deref());
            if let Some(class) = permit.class() {
                let _ = self.host.set_filter_state(STATE_CLASS, class.as_str());
            }
        }
        let may_end = permit.binding().is_some() || permit.valid_until() < Timestamp::MAX;
        if !shadow && may_end {
            let asked = Asked {
                lookups: 0,
                ..asked
            };
            let one = UnderWay {
                asked,
                permit,
                doubt: Doubt::default(),
            };
            memory.live.insert(context, one);
        }
        Flow::Continue
    }

    fn denied(
        &self,
        memory: &mut Memory,
        request: &Request,
        denial: &Denial,
        stage: Stage,
    ) -> Flow {
        let code = denial.reason.code();
        let shadow = self.config.mode == Mode::Shadow;
        let device = self.name(memory, denial.device.as_ref());
        self.metrics.deny(&self.host, code);
        let event = if shadow {
            DenyEvent::Passed
        } else {
            DenyEvent::Refused
        };
        self.log(event, request, denial, device.as_deref());
        if !shadow || stage == Stage::Arrived {
            let _ = self.host.set_filter_state(STATE_DECISION, code.as_str());
            self.write_device(device.as_deref());
        }
        if shadow {
            return Flow::Continue;
        }
        self.answer(request, &denial.reason);
        Flow::Pause
    }

    /// Refuses what could not be read, in either mode.
    pub(super) fn refuse_unread(&self, request: &Request, reason: DenyReason) -> Flow {
        let denial = Denial {
            reason,
            rule: None,
            device: None,
        };
        self.metrics.deny(&self.host, denial.reason.code());
        self.log(DenyEvent::Refused, request, &denial, None);
        self.answer(request, &denial.reason);
        Flow::Pause
    }

    fn answer(&self, request: &Request, reason: &DenyReason) {
        let id = request.request_id.as_deref();
        let retry_after = RetryAfter {
            least: self.config.retry_after,
            jitter: self.next_jitter(),
        };
        let sent = reply::refuse(&self.host, reason.code(), id, request.grpc, retry_after);
        if sent.is_err() {
            // Fail closed: it is paused, and ends here without an answer.
            let _ = self.host.reset_stream();
        }
    }

    /// What a device is called in logs and filter state; `None` until the key is here.
    pub(super) fn name(&self, memory: &mut Memory, device: Option<&DeviceId>) -> Option<String> {
        let device = device?;
        match self.config.log_identifiers {
            LogIdentifiers::Plain => Some(device.to_string()),
            LogIdentifiers::Pseudonym => Some(memory.pseudonyms.of(device)?.to_string()),
        }
    }

    pub(super) fn log(
        &self,
        event: DenyEvent,
        request: &Request,
        denial: &Denial,
        device: Option<&str>,
    ) {
        log_deny(
            &self.host,
            &DenyLine {
                mode: self.config.mode.as_str(),
                event,
                reason: &denial.reason,
                device,
                rule: denial.rule,
                request_id: request.request_id.as_deref(),
            },
        );
    }

    fn write_device(&self, device: Option<&str>) {
        if let Some(device) = device {
            let _ = self.host.set_filter_state(STATE_DEVICE, device);
        }
    }

    fn next_jitter(&self) -> u32 {
        // xorshift32 (Marsaglia): spreads, and keeps no secret.
        let mut x = self.jitter.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.jitter.set(x);
        x
    }
}
