//! May it? Rule, peer, account, binding and the time become a permit or a deny.
//!
//! The order is: the path is read, the rule is found, then the rule's principals are tried in the
//! rule's order. The first principal that may, wins; where none may, the refusal is that of the
//! first. For each principal the checks stand in the order of [`Check`], and the first that fails
//! is the refusal. What a refusal tells is no more than the caller has proven: only a device that
//! has authenticated learns the state of its own binding, and an account learns the state of a
//! device that is bound to it and of no other.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::binding::{AccountId, Binding, BindingState, DeviceClass, Epoch};
use crate::deny::{DenyReason, LookupFailure, NotAllowed, NotPermitted, Unavailable};
use crate::identity::DeviceId;
use crate::path::RequestPath;
use crate::peer::VerifiedPeer;
use crate::rule::{Placeholder, Principal, Rule, RuleSet};
use crate::tag::Tags;
use crate::time::Timestamp;
use crate::trace::{Outcome, Trace, TraceStep, Traced, Untraced};

/// What decisions are made by: rules, account issuers and how stale bindings may be. Made by
/// configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) rules: RuleSet,
    pub(crate) accounts: Accounts,
    pub(crate) max_stale: Duration,
    /// Of the issuers. Where there is one alone, it is what `{serial}` means in the path of an
    /// account.
    pub(crate) namespaces: Box<[Box<str>]>,
}

impl Policy {
    /// The rules, in order.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// The token issuers whose subjects are accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// How long ago the registry may have been heard, where a rule says nothing else.
    pub fn max_stale(&self) -> Duration {
        self.max_stale
    }
}

/// A token issuer whose subjects are accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountIssuer {
    /// The token's `iss`, octet for octet (RFC 7519, 4.1.1).
    pub issuer: Box<str>,
    /// What stands before the token's `sub` in the account's name; may be empty.
    pub prefix: Box<str>,
}

/// The token issuers whose subjects are accounts; no two give the same account.
#[derive(Clone, Debug, Default)]
pub struct Accounts(pub(crate) Box<[AccountIssuer]>);

impl Accounts {
    /// The issuers, in the order of configuration.
    pub fn as_slice(&self) -> &[AccountIssuer] {
        &self.0
    }

    /// The account that a verified token names: the issuer's prefix and the subject. `None` where
    /// the issuer is not configured or the subject makes no account name.
    pub fn account(&self, token: &AccountToken) -> Option<AccountId> {
        let issuer = self.0.iter().find(|one| *one.issuer == *token.issuer)?;
        if token.subject.is_empty() {
            return None;
        }
        if issuer.prefix.is_empty() {
            return token.subject.parse().ok();
        }
        format!("{}{}", issuer.prefix, token.subject).parse().ok()
    }
}

/// What counts of a token that the host has verified (RFC 7519, 4.1.1, 4.1.2 and 4.1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountToken {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `exp`: from here on it names nobody. `None` where the token does not end.
    pub expires_at: Option<Timestamp>,
}

impl AccountToken {
    fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }
}

/// Where the verified token of a request is found. Most requests are a device's own, and need none.
pub trait Tokens {
    /// The token that the host has verified; `None` where there is none.
    fn verified(&self) -> Result<Option<&AccountToken>, DenyReason>;
}

impl Tokens for Option<AccountToken> {
    fn verified(&self) -> Result<Option<&AccountToken>, DenyReason> {
        Ok(self.as_ref())
    }
}

/// The peer of the session, as far as it does not change with time.
#[derive(Clone, Debug)]
pub enum Peer {
    /// No certificate in the session.
    None,
    /// There is one, and it was refused when it was first seen.
    Refused(DenyReason),
    /// Parsed, its issuer found, its signature verified, its identity read.
    Verified(VerifiedPeer),
}

/// What is asked, and who asks.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The peer of the session.
    pub peer: &'a Peer,
    /// The verified token, asked for only where a rule takes an account.
    pub tokens: &'a dyn Tokens,
    /// The method (RFC 9110, 9.1); its case counts.
    pub method: &'a str,
    /// `:path` as it arrived, query and all; empty where there is none or it is no UTF-8.
    pub path: &'a str,
}

/// What is known of one device's binding.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Its record.
    Found(Arc<Binding>),
    /// A complete copy of the registry has no such device, or the registry has just said so.
    Absent,
    /// The registry was asked and did not answer.
    Failed(LookupFailure),
    /// It cannot be said.
    Unavailable(Unavailable),
    /// Not known here: ask the registry, then decide again.
    Pending,
}

/// Where bindings are looked up.
pub trait Bindings {
    /// What is known of this device.
    fn lookup(&mut self, device: &DeviceId, now: Timestamp) -> Lookup;

    /// How long ago the change feed last answered, or why that cannot be said (no synchroniser,
    /// first snapshot not complete, clock off).
    fn freshness(&mut self, now: Timestamp) -> Result<Duration, Unavailable>;
}

/// The outcome.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Let it through, tagged.
    Permit(Permit),
    /// Refuse it.
    Deny(Denial),
    /// Ask the registry about this device, then decide again.
    AskRegistry(DeviceId),
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why; its code is what the client learns.
    pub reason: DenyReason,
    /// The rule that covers the request, from 0.
    pub rule: Option<usize>,
    /// The device that the refused principal is, or asked for: to be written as a pseudonym.
    pub device: Option<DeviceId>,
}

/// Leave to pass. Made by one function of this module and by no other.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Principal,
    rule: Option<usize>,
    tags: Option<Arc<Tags>>,
    binding: Option<Arc<Binding>>,
    account: Option<AccountId>,
    valid_until: Timestamp,
    stale_age: Option<Duration>,
}

impl Permit {
    /// Which kind of principal it was.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// The rule that let it in, from 0; `None` where it was decided for a device alone.
    pub fn rule_index(&self) -> Option<usize> {
        self.rule
    }

    /// The binding that was looked up: the device's own, or that of the device which the path of
    /// an account names.
    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_deref()
    }

    /// The device: the principal, or the one that the path of an account names.
    pub fn device(&self) -> Option<&DeviceId> {
        self.binding().map(|binding| &binding.device)
    }

    /// Which ownership of the device.
    pub fn epoch(&self) -> Option<Epoch> {
        self.binding().map(|binding| binding.epoch)
    }

    /// The device's class.
    pub fn class(&self) -> Option<&DeviceClass> {
        self.binding().and_then(|binding| binding.class.as_ref())
    }

    /// The account: the principal, or the one that the device is bound to.
    pub fn account(&self) -> Option<&AccountId> {
        self.account
            .as_ref()
            .or_else(|| self.binding().and_then(|binding| binding.account.as_ref()))
    }

    /// The rule's tags.
    pub fn tags(&self) -> &Tags {
        const NONE: &Tags = &Tags::NONE;
        self.tags.as_deref().unwrap_or(NONE)
    }

    /// The permit ends here by itself: the earlier of the binding's `expires_at` and the end of what
    /// names the principal, the certificate's `notAfter` or the token's `exp`; [`Timestamp::MAX`]
    /// where neither ends.
    pub fn valid_until(&self) -> Timestamp {
        self.valid_until
    }

    /// How long ago the registry was heard, where that is beyond the general bound and the rule
    /// allows it.
    pub fn stale_age(&self) -> Option<Duration> {
        self.stale_age
    }
}

/// The checks, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The path can be read in one way only.
    Path,
    /// A rule covers path and method.
    Rule,
    /// The session has a peer certificate, and it was accepted.
    Peer,
    /// The certificate is valid now.
    Validity,
    /// A verified token names an account.
    Account,
    /// The path of an account names a device.
    Device,
    /// The registry was heard lately enough.
    Freshness,
    /// There is a binding.
    Binding,
    /// The device is bound to the calling account.
    Bound,
    /// The binding is active, for an account.
    State,
    /// The binding has not expired.
    Expiry,
    /// The binding allows the certificate's public key.
    Pins,
    /// The path's placeholders name the principal.
    Placeholders,
    /// The rule takes whoever asks.
    Anyone,
}

impl Check {
    /// The step's name in a trace and in the output of `medbind explain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Rule => "rule",
            Self::Peer => "peer",
            Self::Validity => "validity",
            Self::Account => "account",
            Self::Device => "device",
            Self::Freshness => "freshness",
            Self::Binding => "binding",
            Self::Bound => "bound",
            Self::State => "state",
            Self::Expiry => "expiry",
            Self::Pins => "pins",
            Self::Placeholders => "placeholders",
            Self::Anyone => "anyone",
        }
    }
}

/// Decides. See the module's documentation for the order.
pub fn decide(
    policy: &Policy,
    facts: &Facts<'_>,
    bindings: &mut dyn Bindings,
    now: Timestamp,
) -> Decision {
    run(policy, facts, bindings, now, &mut Untraced)
}

/// Decides by the same code, and tells each check to `listener`.
pub fn decide_traced(
    policy: &Policy,
    facts: &Facts<'_>,
    bindings: &mut dyn Bindings,
    now: Timestamp,
    listener: &mut dyn FnMut(TraceStep),
) -> Decision {
    run(policy, facts, bindings, now, &mut Traced(listener))
}

/// Decides for the device alone, without a rule: is there a peer, and does its binding hold?
/// Tells each check to `listener`.
pub fn decide_device(
    policy: &Policy,
    peer: &Peer,
    bindings: &mut dyn Bindings,
    now: Timestamp,
    listener: &mut dyn FnMut(TraceStep),
) -> Decision {
    let mut case = Case {
        policy,
        peer,
        tokens: &None,
        matched: None,
        bindings,
        now,
        trace: &mut Traced(listener),
        principal: Some(Principal::Device),
    };
    match case.device() {
        Ok(grounds) => Decision::Permit(permit(None, grounds)),
        Err(stop) => stop.into_decision(None),
    }
}

/// Decides again for a request that is still open, with the facts remembered from its start.
///
/// A permit that names another principal, device, account, epoch or class than the first one is a
/// deny: what the upstream was told no longer holds.
pub fn decide_again(
    first: &Permit,
    policy: &Policy,
    facts: &Facts<'_>,
    bindings: &mut dyn Bindings,
    now: Timestamp,
) -> Decision {
    let decision = decide(policy, facts, bindings, now);
    let Decision::Permit(permit) = &decision else {
        return decision;
    };
    let same = permit.principal() == first.principal()
        && permit.device() == first.device()
        && permit.account() == first.account()
        && permit.epoch() == first.epoch()
        && permit.class() == first.class();
    if same {
        return decision;
    }
    // Fail closed: the upstream holds a tag that is no longer true.
    Decision::Deny(Denial {
        reason: DenyReason::NotPermitted(NotPermitted::Changed),
        rule: permit.rule_index(),
        device: first.device().cloned(),
    })
}

/// Why a principal is not let in.
enum Stop {
    Deny(DenyReason, Option<DeviceId>),
    Ask(DeviceId),
}

impl Stop {
    fn into_decision(self, rule: Option<usize>) -> Decision {
        match self {
            Self::Deny(reason, device) => Decision::Deny(Denial {
                reason,
                rule,
                device,
            }),
            Self::Ask(device) => Decision::AskRegistry(device),
        }
    }
}

/// What a permit stands on: every check of its principal has passed.
struct Grounds {
    principal: Principal,
    binding: Option<Arc<Binding>>,
    account: Option<AccountId>,
    not_after: Timestamp,
    stale_age: Option<Duration>,
}

/// The one function that makes a permit.
fn permit(rule: Option<(usize, &Rule)>, grounds: Grounds) -> Permit {
    let expires_at = grounds
        .binding
        .as_ref()
        .and_then(|binding| binding.expires_at)
        .unwrap_or(Timestamp::MAX);
    Permit {
        principal: grounds.principal,
        rule: rule.map(|(index, _)| index),
        tags: rule.map(|(_, rule)| Arc::clone(&rule.tags)),
        binding: grounds.binding,
        account: grounds.account,
        valid_until: grounds.not_after.min(expires_at),
        stale_age: grounds.stale_age,
    }
}

fn run<T: Trace>(
    policy: &Policy,
    facts: &Facts<'_>,
    bindings: &mut dyn Bindings,
    now: Timestamp,
    trace: &mut T,
) -> Decision {
    let path = match RequestPath::parse(facts.path) {
        Ok(path) => path,
        Err(error) => {
            let reason = DenyReason::NotPermitted(NotPermitted::Path(error));
            refused(trace, Check::Path, &reason, || facts.path.escape_default());
            return Stop::Deny(reason, None).into_decision(None);
        }
    };
    trace.step(Check::Path.as_str(), Outcome::Passed, || facts.path.into());
    let Some((index, rule)) = policy.rules.find(facts.method, &path) else {
        let reason = DenyReason::NotPermitted(NotPermitted::NoRule);
        refused(trace, Check::Rule, &reason, || {
            format!("{} {}", facts.method, facts.path)
        });
        return Stop::Deny(reason, None).into_decision(None);
    };
    trace.step(Check::Rule.as_str(), Outcome::Passed, || {
        let principals: Vec<&str> = rule.principals().iter().map(|one| one.as_str()).collect();
        format!(
            "rules[{index}], {}, takes {}",
            rule.pattern().as_str(),
            principals.join(", then ")
        )
    });
    let mut case = Case {
        policy,
        peer: facts.peer,
        tokens: facts.tokens,
        matched: Some(Matched { rule, path: &path }),
        bindings,
        now,
        trace,
        principal: None,
    };
    let mut first: Option<Stop> = None;
    for principal in rule.principals() {
        case.principal = Some(*principal);
        let outcome = match principal {
            Principal::Device => case.device(),
            Principal::Account => case.account(),
            Principal::Anyone => Ok(case.anyone()),
        };
        match outcome {
            Ok(grounds) => return Decision::Permit(permit(Some((index, rule)), grounds)),
            // A principal that comes later must not overtake one that may be let in yet.
            Err(stop @ Stop::Ask(_)) => return stop.into_decision(Some(index)),
            Err(stop @ Stop::Deny(..)) => first = first.or(Some(stop)),
        }
    }
    // Fail closed: a rule without principals lets nobody in.
    first
        .unwrap_or(Stop::Deny(
            DenyReason::NotPermitted(NotPermitted::NoRule),
            None,
        ))
        .into_decision(Some(index))
}

fn refused<T: Trace, D: fmt::Display>(
    trace: &mut T,
    check: Check,
    reason: &DenyReason,
    read: impl FnOnce() -> D,
) {
    trace.step(check.as_str(), Outcome::Refused, || {
        format!("{}: {reason}", read())
    });
}

#[derive(Clone, Copy)]
struct Matched<'a> {
    rule: &'a Rule,
    path: &'a RequestPath<'a>,
}

impl<'a> Matched<'a> {
    fn filled(self, wanted: Placeholder) -> Option<crate::path::Segment<'a>> {
        self.rule
            .pattern()
            .filled(self.path)
            .find(|(placeholder, _)| *placeholder == wanted)
            .map(|(_, segment)| segment)
    }
}

/// One request under one rule, or one device under none.
struct Case<'a, T: Trace> {
    policy: &'a Policy,
    peer: &'a Peer,
    tokens: &'a dyn Tokens,
    matched: Option<Matched<'a>>,
    bindings: &'a mut dyn Bindings,
    now: Timestamp,
    trace: &'a mut T,
    principal: Option<Principal>,
}

impl<'a, T: Trace> Case<'a, T> {
    /// Records a check, and turns its failure into a stop.
    fn check<V>(
        &mut self,
        check: Check,
        device: Option<&DeviceId>,
        outcome: Result<V, DenyReason>,
        read: impl FnOnce(Option<&V>) -> String,
    ) -> Result<V, Stop> {
        match outcome {
            Ok(value) => {
                self.trace
                    .step(check.as_str(), Outcome::Passed, || read(Some(&value)));
                Ok(value)
            }
            Err(reason) => {
                refused(self.trace, check, &reason, || read(None));
                Err(Stop::Deny(reason, device.cloned()))
            }
        }
    }

    fn anyone(&mut self) -> Grounds {
        self.trace
            .step(Check::Anyone.as_str(), Outcome::Passed, || {
                "nothing is asked for".into()
            });
        Grounds {
            principal: Principal::Anyone,
            binding: None,
            account: None,
            not_after: Timestamp::MAX,
            stale_age: None,
        }
    }

    fn device(&mut self) -> Result<Grounds, Stop> {
        let now = self.now;
        let peer = match self.peer {
            Peer::None => Err(DenyReason::NoPeerCertificate),
            Peer::Refused(reason) => Err(reason.clone()),
            Peer::Verified(peer) => Ok(peer),
        };
        let peer = self.check(Check::Peer, None, peer, |peer| match peer {
            Some(peer) => peer.device().to_string(),
            None => "the session's certificate".into(),
        })?;
        let device = peer.device();
        let known = Some(device);
        self.check(Check::Validity, known, peer.check_validity(now), |_| {
            format!(
                "{} to {}, now {now}",
                peer.not_before(),
                Ending(peer.not_after())
            )
        })?;
        let stale_age = self.freshness(known)?;
        let binding = self.lookup(device, &DenyReason::UnknownDevice)?;
        self.standing(&binding)?;
        let pins = if binding.pins.allow(&peer.pin()) {
            Ok(())
        } else {
            Err(DenyReason::CertificateNotAllowed(NotAllowed::Pin))
        };
        self.check(Check::Pins, known, pins, |_| {
            match binding.pins.as_slice().len() {
                0 => "no pins".into(),
                count => format!("{count} pins, the key's is {}", peer.pin()),
            }
        })?;
        if let Some(matched) = self.matched {
            let outcome = device_placeholders(matched, &binding).map_err(DenyReason::NotPermitted);
            self.check(Check::Placeholders, known, outcome, |_| {
                matched.rule.pattern().as_str().into()
            })?;
        }
        Ok(Grounds {
            principal: Principal::Device,
            binding: Some(binding),
            account: None,
            not_after: peer.not_after(),
            stale_age,
        })
    }

    fn account(&mut self) -> Result<Grounds, Stop> {
        let token = match self.tokens.verified() {
            Ok(token) => token,
            Err(reason) => {
                // Fail closed: who asks cannot be said.
                refused(self.trace, Check::Account, &reason, || "the verified token");
                return Err(Stop::Deny(reason, None));
            }
        };
        let now = self.now;
        let account = token
            .filter(|token| !token.has_ended(now))
            .and_then(|token| self.policy.accounts.account(token))
            .ok_or(DenyReason::NoAccount);
        let ends_at = token.and_then(|token| token.expires_at);
        let account = self.check(Check::Account, None, account, |account| {
            match (account, token) {
                (Some(account), _) => account.to_string(),
                (None, Some(token)) if token.has_ended(now) => {
                    format!(
                        "the token's end, {}, now {now}",
                        Ending(ends_at.unwrap_or(now))
                    )
                }
                (None, Some(token)) => format!(
                    "issuer {:?}, subject {:?}: no configured issuer, or no account name",
                    token.issuer, token.subject
                ),
                (None, None) => "no verified token".into(),
            }
        })?;
        // An account is tried under a rule alone.
        let Some(matched) = self.matched else {
            return Err(Stop::Deny(DenyReason::NoAccount, None));
        };
        if let Some(segment) = matched.filled(Placeholder::Account) {
            let outcome = if segment.is(account.as_str()) {
                Ok(())
            } else {
                Err(DenyReason::NotPermitted(NotPermitted::OtherAccount))
            };
            self.check(Check::Placeholders, None, outcome, |_| {
                matched.rule.pattern().as_str().into()
            })?;
        }
        let (binding, stale_age) = match self.named_device(matched)? {
            None => (None, None),
            Some(device) => {
                let (binding, stale_age) = self.bound_device(matched, &account, &device)?;
                (Some(binding), stale_age)
            }
        };
        Ok(Grounds {
            principal: Principal::Account,
            binding,
            account: Some(account),
            not_after: ends_at.unwrap_or(Timestamp::MAX),
            stale_age,
        })
    }

    /// The device that the path of an account names, where its rule says that it names one.
    fn named_device(&mut self, matched: Matched<'a>) -> Result<Option<DeviceId>, Stop> {
        let (segment, device) = if let Some(segment) = matched.filled(Placeholder::Device) {
            // Where no issuer has the namespace, no device has the name, and nobody need be asked.
            let names_one = |device: &DeviceId| {
                let mut namespaces = self.policy.namespaces.iter();
                namespaces.any(|one| **one == *device.namespace())
            };
            let device = segment.decoded().parse::<DeviceId>().ok();
            (segment, device.filter(names_one))
        } else if let Some(segment) = matched.filled(Placeholder::Serial) {
            let device = match &*self.policy.namespaces {
                [lone] => format!("{lone}:{}", segment.decoded()).parse().ok(),
                [] | [_, _, ..] => None,
            };
            (segment, device)
        } else {
            return Ok(None);
        };
        // What is no identity of a device that there can be is bound to nobody.
        let device = device.ok_or(DenyReason::NotPermitted(NotPermitted::NotBound));
        self.check(Check::Device, None, device, |_| {
            segment.decoded().into_owned()
        })
        .map(Some)
    }

    fn bound_device(
        &mut self,
        matched: Matched<'a>,
        account: &AccountId,
        device: &DeviceId,
    ) -> Result<(Arc<Binding>, Option<Duration>), Stop> {
        let known = Some(device);
        let not_bound = DenyReason::NotPermitted(NotPermitted::NotBound);
        let stale_age = self.freshness(known)?;
        let binding = self.lookup(device, &not_bound)?;
        // Before the state: whose device it is not, learns nothing of it.
        let bound = if binding.account.as_ref() == Some(account) {
            Ok(())
        } else {
            Err(not_bound)
        };
        self.check(Check::Bound, known, bound, |_| account.to_string())?;
        self.standing(&binding)?;
        if let Some(segment) = matched.filled(Placeholder::Class) {
            let outcome = if names_class(segment, &binding) {
                Ok(())
            } else {
                Err(DenyReason::NotPermitted(NotPermitted::OtherClass))
            };
            self.check(Check::Placeholders, known, outcome, |_| {
                matched.rule.pattern().as_str().into()
            })?;
        }
        Ok((binding, stale_age))
    }

    /// The age of the bindings where it is beyond the general bound and the rule allows it.
    fn freshness(&mut self, device: Option<&DeviceId>) -> Result<Option<Duration>, Stop> {
        let general = self.policy.max_stale;
        let bound = self
            .matched
            .and_then(|matched| matched.rule.max_stale())
            .unwrap_or(general);
        let age = match self.bindings.freshness(self.now) {
            Ok(age) if age > bound => Err(DenyReason::BindingsStale {
                age_seconds: age.as_secs(),
            }),
            Ok(age) => Ok(age),
            Err(unavailable) => Err(DenyReason::BindingsUnavailable(unavailable)),
        };
        let age = self.check(Check::Freshness, device, age, |age| match age {
            Some(age) => format!(
                "the registry was heard {} s ago, allowed are {} s",
                age.as_secs(),
                bound.as_secs()
            ),
            None => "when the registry was heard".into(),
        })?;
        Ok(Some(age).filter(|age| *age > general))
    }

    /// The binding of a device; `absent` is the refusal where there is none.
    fn lookup(&mut self, device: &DeviceId, absent: &DenyReason) -> Result<Arc<Binding>, Stop> {
        let to_account = self.principal == Some(Principal::Account);
        let found = match self.bindings.lookup(device, self.now) {
            Lookup::Found(binding) if binding.device == *device => Ok(binding),
            // Fail closed: a table that answers for another device is broken.
            Lookup::Found(_) => Err(DenyReason::Internal(
                "a binding was looked up and another device's came back",
            )),
            Lookup::Absent => Err(absent.clone()),
            Lookup::Failed(failure) => Err(DenyReason::LookupFailed(failure)),
            // That there is such a record is more than an account may learn of a device that may
            // not be its own.
            Lookup::Unavailable(Unavailable::UnknownRecord) if to_account => Err(absent.clone()),
            Lookup::Unavailable(unavailable) => Err(DenyReason::BindingsUnavailable(unavailable)),
            Lookup::Pending => {
                self.trace
                    .step(Check::Binding.as_str(), Outcome::Absent, || {
                        format!("{device} is not known here: the registry is asked")
                    });
                return Err(Stop::Ask(device.clone()));
            }
        };
        self.check(Check::Binding, Some(device), found, |found| match found {
            Some(binding) => format!("{device}, revision {}", binding.revision),
            None => device.to_string(),
        })
    }

    /// Active, for an account, and not expired.
    fn standing(&mut self, binding: &Binding) -> Result<(), Stop> {
        let known = Some(&binding.device);
        let outcome = match (binding.state, &binding.account) {
            (BindingState::Active, Some(_)) => Ok(()),
            // Fail closed: active for nobody is not active.
            (BindingState::Active, None) | (BindingState::Unclaimed, _) => {
                Err(DenyReason::DeviceUnclaimed)
            }
            (BindingState::Suspended, _) => Err(DenyReason::BindingSuspended),
            (BindingState::Revoked, _) => Err(DenyReason::BindingRevoked),
            // Fail closed: a state of a newer registry permits nothing here.
            (BindingState::Unrecognised, _) => {
                Err(DenyReason::BindingsUnavailable(Unavailable::UnknownRecord))
            }
        };
        self.check(Check::State, known, outcome, |_| {
            match (&binding.account, binding.state) {
                (Some(account), state) => format!("{} for {account}", state.as_str()),
                (None, state) => format!("{} for no account", state.as_str()),
            }
        })?;
        let now = self.now;
        let outcome = match binding.expires_at {
            Some(expired_at) if now >= expired_at => Err(DenyReason::BindingExpired { expired_at }),
            Some(_) | None => Ok(()),
        };
        self.check(Check::Expiry, known, outcome, |_| {
            match binding.expires_at {
                Some(at) => format!("ends {at}, now {now}"),
                None => "does not end by itself".into(),
            }
        })
    }
}

/// A `notAfter` for a person to read.
struct Ending(Timestamp);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Timestamp::MAX {
            f.write_str("no well-defined end")
        } else {
            self.0.fmt(f)
        }
    }
}

fn names_class(segment: crate::path::Segment<'_>, binding: &Binding) -> bool {
    binding
        .class
        .as_ref()
        .is_some_and(|class| segment.is(class.as_str()))
}

fn device_placeholders(matched: Matched<'_>, binding: &Binding) -> Result<(), NotPermitted> {
    for (placeholder, segment) in matched.rule.pattern().filled(matched.path) {
        let (fits, refusal) = match placeholder {
            Placeholder::Device => (
                segment.is(binding.device.as_str()),
                NotPermitted::OtherDevice,
            ),
            Placeholder::Serial => (
                segment.is(binding.device.serial()),
                NotPermitted::OtherDevice,
            ),
            Placeholder::Account => (
                binding
                    .account
                    .as_ref()
                    .is_some_and(|account| segment.is(account.as_str())),
                NotPermitted::OtherAccount,
            ),
            Placeholder::Class => (names_class(segment, binding), NotPermitted::OtherClass),
        };
        if !fits {
            return Err(refusal);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
