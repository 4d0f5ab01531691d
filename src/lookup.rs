//! Who waits for the registry's word on which device? One call for each device and worker, however
//! many requests wait for it.

use std::collections::HashMap;
use std::time::Duration;

use medbind_core::identity::DeviceId;

use crate::asked::Asked;

/// How much later than its deadline a call that says nothing is given up.
const GRACE: Duration = Duration::from_secs(1);

/// What is to be done with a request when the answer is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is paused: decide, then let it go on or refuse it.
    Paused,
    /// It has gone on (shadow mode): decide and count.
    Watched,
    /// It was permitted and is under way: decide, and cut it where that is a deny.
    UnderWay,
    /// It has gone away. The call that it made goes on without it, and counts until the answer to
    /// the one that is made instead is here: who comes and goes makes no more calls than who waits.
    Gone,
}

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behalf {
    /// The device itself: it has proven its identity.
    Device,
    /// An account, whose path may name any device.
    Account,
}

/// One request that waits.
#[derive(Debug)]
pub struct Waiter {
    /// Its context.
    pub context: u32,
    /// What is to be done with it.
    pub wait: Wait,
    /// On whose behalf.
    pub behalf: Behalf,
    /// What it asks; `None` where the table of requests under way has it.
    pub asked: Option<Asked>,
}

#[derive(Debug)]
struct Flight {
    token: Option<u32>,
    /// The context that made the call, and without which its answer is lost.
    caller: Option<u32>,
    /// How long the call may still say nothing, or wait to be made again. Counted by ticks: no step
    /// of the clock ends a call that is answered, or keeps one that is not.
    left: Duration,
    /// Whether the call is for requests under way alone.
    under_way: bool,
    waiters: Vec<Waiter>,
    waiting: Count,
}

/// How many wait. A request that is under way does not count: the table that it stands in bounds
/// those, and one that was let in must not end because others wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    accounts: usize,
}

impl Count {
    fn of(waiters: &[Waiter]) -> Self {
        let mut count = Self::default();
        for waiter in waiters {
            count.add(waiter);
        }
        count
    }

    const fn add(&mut self, waiter: &Waiter) {
        match (waiter.wait, waiter.behalf) {
            (Wait::UnderWay, _) => {}
            (Wait::Paused | Wait::Watched | Wait::Gone, Behalf::Device) => {
                self.all = self.all.saturating_add(1);
            }
            (Wait::Paused | Wait::Watched | Wait::Gone, Behalf::Account) => {
                self.all = self.all.saturating_add(1);
                self.accounts = self.accounts.saturating_add(1);
            }
        }
    }

    const fn put_back(&mut self, other: Self) {
        self.all = self.all.saturating_add(other.all);
        self.accounts = self.accounts.saturating_add(other.accounts);
    }

    const fn take(&mut self, other: Self) {
        self.all = self.all.saturating_sub(other.all);
        self.accounts = self.accounts.saturating_sub(other.accounts);
    }

    /// Whether one more may not wait where `most` may. Accounts have a quarter: one that names
    /// devices at random keeps no device waiting.
    fn is_full_for(self, waiter: &Waiter, most: usize) -> bool {
        match (waiter.wait, waiter.behalf) {
            (Wait::UnderWay, _) => false,
            (Wait::Paused | Wait::Watched | Wait::Gone, Behalf::Device) => self.all >= most,
            (Wait::Paused | Wait::Watched | Wait::Gone, Behalf::Account) => {
                self.all >= most || self.accounts >= most.div_ceil(4)
            }
        }
    }
}

/// What became of a request to wait.
#[derive(Debug)]
pub enum Joined {
    /// It waits with others.
    Waits,
    /// It waits, and the call is still to be made.
    Calls,
    /// Too many wait already.
    Full(Waiter),
}

/// How many requests of a worker may wait; those of accounts a quarter of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For any lookup.
    pub in_all: usize,
    /// For the lookup of one device.
    pub a_device: usize,
}

/// The lookups of one worker that are under way.
#[derive(Debug)]
pub struct Lookups {
    limits: Limits,
    flights: HashMap<DeviceId, Flight>,
    tokens: HashMap<u32, DeviceId>,
    paused: HashMap<u32, DeviceId>,
    waiting: Count,
    under_way: usize,
}

impl Lookups {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            flights: HashMap::new(),
            tokens: HashMap::new(),
            paused: HashMap::new(),
            waiting: Count::default(),
            under_way: 0,
        }
    }

    /// How many calls are open for requests under way alone.
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether a call for `device` is open, so that whoever joins makes none.
    pub fn is_open(&self, device: &DeviceId) -> bool {
        let flight = self.flights.get(device);
        flight.is_some_and(|flight| flight.token.is_some())
    }

    /// Lets `waiter` wait for `device`.
    pub fn join(&mut self, device: &DeviceId, waiter: Waiter) -> Joined {
        let waiting = |flight: &Flight| flight.waiting;
        let for_device = self.flights.get(device).map(waiting).unwrap_or_default();
        if self.waiting.is_full_for(&waiter, self.limits.in_all)
            || for_device.is_full_for(&waiter, self.limits.a_device)
        {
            return Joined::Full(waiter);
        }
        let flight = self
            .flights
            .entry(device.clone())
            .or_insert_with(|| Flight {
                token: None,
                caller: None,
                left: Duration::ZERO,
                under_way: false,
                waiters: Vec::new(),
                waiting: Count::default(),
            });
        if waiter.wait == Wait::Paused {
            self.paused.insert(waiter.context, device.clone());
        }
        flight.waiting.add(&waiter);
        self.waiting.add(&waiter);
        flight.waiters.push(waiter);
        if flight.token.is_some() {
            Joined::Waits
        } else {
            Joined::Calls
        }
    }

    /// The call for `device` was made from `caller`.
    pub fn called(&mut self, device: &DeviceId, token: u32, caller: u32, timeout: Duration) {
        if let Some(flight) = self.flights.get_mut(device) {
            if let Some(before) = flight.token.replace(token) {
                self.tokens.remove(&before);
                self.under_way = self.under_way.saturating_sub(usize::from(flight.under_way));
            }
            flight.caller = Some(caller);
            flight.left = timeout.saturating_add(GRACE);
            let mut waits = flight.waiters.iter().map(|waiter| waiter.wait);
            flight.under_way = waits.all(|wait| wait == Wait::UnderWay);
            if flight.under_way {
                self.under_way = self.under_way.saturating_add(1);
            }
            self.tokens.insert(token, device.clone());
        }
    }

    /// The device that the call with this token asked about.
    pub fn device_of(&self, token: u32) -> Option<&DeviceId> {
        self.tokens.get(&token)
    }

    /// Ends the lookup of `device`, and gives those who waited for it.
    pub fn finish(&mut self, device: &DeviceId) -> Vec<Waiter> {
        let Some(flight) = self.flights.remove(device) else {
            return Vec::new();
        };
        if let Some(token) = flight.token {
            self.tokens.remove(&token);
            if flight.under_way {
                self.under_way = self.under_way.saturating_sub(1);
            }
        }
        for waiter in &flight.waiters {
            if waiter.wait == Wait::Paused {
                self.paused.remove(&waiter.context);
            }
        }
        self.waiting.take(flight.waiting);
        flight.waiters
    }

    /// Takes back the waiter that joined last for `device`: the call could not be made. Those who
    /// waited before go on waiting for one.
    pub fn withdraw(&mut self, device: &DeviceId) -> Option<Waiter> {
        let flight = self.flights.get_mut(device)?;
        let waiter = flight.waiters.pop();
        if let Some(waiter) = &waiter {
            let one = Count::of(std::slice::from_ref(waiter));
            flight.waiting.take(one);
            self.waiting.take(one);
        }
        if flight.waiters.is_empty() && flight.token.is_none() {
            self.flights.remove(device);
        }
        if let Some(waiter) = &waiter
            && waiter.wait == Wait::Paused
        {
            self.paused.remove(&waiter.context);
        }
        waiter
    }

    /// Whether this request, which is under way, waits for `device` already.
    pub fn has_under_way(&self, device: &DeviceId, context: u32) -> bool {
        self.flights.get(device).is_some_and(|flight| {
            flight
                .waiters
                .iter()
                .any(|waiter| waiter.context == context && waiter.wait == Wait::UnderWay)
        })
    }

    /// A context ended: it waits no more, and the answer to a call that it made is lost.
    pub fn leave(&mut self, context: u32) {
        if self.flights.is_empty() {
            return;
        }
        if let Some(device) = self.paused.remove(&context)
            && let Some(flight) = self.flights.get_mut(&device)
        {
            let before = flight.waiting;
            let has_called = flight.caller == Some(context);
            flight.waiters.retain_mut(|waiter| {
                let leaves = waiter.context == context && waiter.wait == Wait::Paused;
                if leaves && has_called {
                    waiter.wait = Wait::Gone;
                    waiter.asked = None;
                }
                !leaves || has_called
            });
            flight.waiting = Count::of(&flight.waiters);
            self.waiting.take(before);
            self.waiting.put_back(flight.waiting);
        }
        let (tokens, under_way) = (&mut self.tokens, &mut self.under_way);
        self.flights.retain(|_, flight| {
            if flight.caller == Some(context) {
                flight.caller = None;
                if let Some(token) = flight.token.take() {
                    tokens.remove(&token);
                    if flight.under_way {
                        *under_way = under_way.saturating_sub(1);
                    }
                }
            }
            flight.token.is_some() || !flight.waiters.is_empty()
        });
    }

    /// The devices whose call has still to be made, since the context that made it ended.
    pub fn orphans(&self) -> Vec<DeviceId> {
        let orphans = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.token.is_none());
        orphans.map(|(device, _)| device.clone()).collect()
    }

    /// A tick, `period` after the last one. Gives the devices whose call has said nothing long past its
    /// deadline, or has ended with its caller and could not be made again until then.
    pub fn overdue(&mut self, period: Duration) -> Vec<DeviceId> {
        let mut overdue = Vec::new();
        for (device, flight) in &mut self.flights {
            if flight.left.is_zero() {
                overdue.push(device.clone());
            }
            flight.left = flight.left.saturating_sub(period);
        }
        overdue
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(serial: &str) -> DeviceId {
        DeviceId::new("acme", serial.as_bytes()).unwrap()
    }

    fn paused(context: u32) -> Waiter {
        Waiter {
            context,
            wait: Wait::Paused,
            behalf: Behalf::Device,
            asked: None,
        }
    }

    fn of_account(context: u32) -> Waiter {
        Waiter {
            behalf: Behalf::Account,
            ..paused(context)
        }
    }

    fn under_way(context: u32) -> Waiter {
        Waiter {
            wait: Wait::UnderWay,
            ..paused(context)
        }
    }

    const LIMITS: Limits = Limits {
        in_all: 200,
        a_device: 50,
    };
    const TIMEOUT: Duration = Duration::from_millis(50);

    #[test]
    fn the_first_calls_and_the_others_wait() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        assert!(matches!(lookups.join(&a, paused(2)), Joined::Calls));
        lookups.called(&a, 7, 2, TIMEOUT);
        assert!(matches!(lookups.join(&a, paused(3)), Joined::Waits));
        assert!(matches!(
            lookups.join(&device("b"), paused(4)),
            Joined::Calls
        ));
        assert_eq!(lookups.device_of(7), Some(&a));
        let contexts: Vec<_> = lookups.finish(&a).iter().map(|w| w.context).collect();
        assert_eq!(contexts, [2, 3]);
        assert_eq!(lookups.device_of(7), None);
        assert!(lookups.finish(&a).is_empty());
    }

    #[test]
    fn when_the_caller_ends_the_others_go_on_waiting_for_a_call_of_their_own() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        lookups.join(&a, paused(2));
        lookups.called(&a, 7, 2, TIMEOUT);
        lookups.join(&a, paused(3));
        lookups.leave(2);
        assert_eq!(lookups.orphans(), std::slice::from_ref(&a));
        assert_eq!(lookups.device_of(7), None);
        assert!(matches!(lookups.join(&a, paused(4)), Joined::Calls));
        lookups.called(&a, 8, 4, TIMEOUT);
        assert!(lookups.orphans().is_empty());
        lookups.leave(3);
        lookups.leave(4);
        // Of the two calls that nobody waits for.
        assert_eq!(lookups.waiting.all, 2);
        assert_eq!(lookups.orphans(), std::slice::from_ref(&a));
        let waits: Vec<_> = lookups.finish(&a).iter().map(|w| w.wait).collect();
        assert_eq!(waits, [Wait::Gone, Wait::Gone]);
        assert!(lookups.is_empty() && lookups.waiting == Count::default());
    }

    #[test]
    fn a_call_for_requests_under_way_counts_until_it_ends_and_once() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        lookups.join(&a, under_way(2));
        lookups.called(&a, 7, 2, TIMEOUT);
        assert_eq!(lookups.under_way(), 1);
        // Made anew, it is one.
        lookups.called(&a, 8, 3, TIMEOUT);
        assert_eq!((lookups.under_way(), lookups.device_of(7)), (1, None));
        // The context that made it is gone.
        lookups.leave(3);
        assert_eq!((lookups.under_way(), lookups.device_of(8)), (0, None));
        assert_eq!(lookups.orphans(), std::slice::from_ref(&a));
        lookups.called(&a, 9, 1, TIMEOUT);
        assert_eq!(lookups.under_way(), 1);
        assert_eq!(lookups.finish(&a).len(), 1);
        assert_eq!(lookups.under_way(), 0);
    }

    #[test]
    fn who_comes_and_goes_makes_no_more_calls_than_who_waits() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        let mut calls = 0;
        for context in 0..1_000 {
            if matches!(lookups.join(&a, paused(context)), Joined::Calls) {
                calls += 1;
                lookups.called(&a, context, context, TIMEOUT);
            }
            lookups.leave(context);
        }
        assert_eq!(calls, LIMITS.a_device);
        // One that has not called leaves nothing behind.
        lookups.join(&device("b"), paused(2_000));
        lookups.called(&device("b"), 2_000, 2_000, TIMEOUT);
        lookups.join(&device("b"), paused(2_001));
        lookups.leave(2_001);
        assert_eq!(lookups.waiting.all, LIMITS.a_device + 1);
    }

    #[test]
    fn who_could_not_call_is_given_back_and_those_before_go_on_waiting() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        lookups.join(&a, paused(2));
        assert_eq!(lookups.withdraw(&a).map(|w| w.context), Some(2));
        assert!(lookups.is_empty() && lookups.waiting.all == 0);
        lookups.join(&a, paused(2));
        lookups.called(&a, 7, 2, TIMEOUT);
        lookups.join(&a, paused(3));
        lookups.leave(2);
        lookups.join(&a, paused(4));
        assert_eq!(lookups.withdraw(&a).map(|w| w.context), Some(4));
        assert_eq!(lookups.orphans(), [a]);
        assert_eq!(lookups.waiting.all, 2, "3, and the call of 2");
    }

    #[test]
    fn both_bounds_hold() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        let mut context = 0;
        for _ in 0..LIMITS.a_device {
            context += 1;
            assert!(!matches!(
                lookups.join(&a, paused(context)),
                Joined::Full(_)
            ));
        }
        assert!(matches!(lookups.join(&a, paused(0)), Joined::Full(_)));
        while lookups.waiting.all < LIMITS.in_all {
            context += 1;
            lookups.join(&device(&context.to_string()), paused(context));
        }
        assert!(matches!(
            lookups.join(&device("b"), paused(0)),
            Joined::Full(_)
        ));
        lookups.finish(&a);
        assert!(!matches!(
            lookups.join(&device("b"), paused(0)),
            Joined::Full(_)
        ));
    }

    #[test]
    fn accounts_have_a_quarter_and_devices_the_rest() {
        let mut lookups = Lookups::new(LIMITS);
        let is_full = |lookups: &mut Lookups, serial: &str, waiter| {
            matches!(lookups.join(&device(serial), waiter), Joined::Full(_))
        };
        // Of the waiters for one device 13, which is a quarter of 50, rounded up.
        for context in 0..13 {
            assert!(!is_full(&mut lookups, "a", of_account(context)));
        }
        assert!(is_full(&mut lookups, "a", of_account(13)));
        assert!(!is_full(&mut lookups, "a", paused(14)));
        // Of all of them 50.
        for context in 100..137 {
            assert!(!is_full(
                &mut lookups,
                &context.to_string(),
                of_account(context)
            ));
        }
        assert!(is_full(&mut lookups, "b", of_account(200)));
        assert_eq!(
            lookups.waiting,
            Count {
                all: 51,
                accounts: 50
            }
        );
        for context in 300..449 {
            assert!(!is_full(
                &mut lookups,
                &context.to_string(),
                paused(context)
            ));
        }
        assert!(is_full(&mut lookups, "b", paused(500)));
        // One that leaves makes room for one, of its kind.
        lookups.leave(100);
        assert!(!is_full(&mut lookups, "b", of_account(501)));
        assert!(is_full(&mut lookups, "b", of_account(502)));
        lookups.finish(&device("a"));
        assert_eq!(
            lookups.waiting,
            Count {
                all: 186,
                accounts: 37
            }
        );
    }

    #[test]
    fn a_request_under_way_finds_room_however_many_wait() {
        let limits = Limits {
            in_all: 1,
            a_device: 1,
        };
        let mut lookups = Lookups::new(limits);
        lookups.join(&device("a"), paused(1));
        assert!(matches!(
            lookups.join(&device("a"), under_way(2)),
            Joined::Calls
        ));
        assert!(matches!(
            lookups.join(&device("b"), under_way(3)),
            Joined::Calls
        ));
        assert!(lookups.has_under_way(&device("b"), 3));
        // And takes none from those that wait.
        lookups.finish(&device("a"));
        assert!(matches!(
            lookups.join(&device("b"), paused(4)),
            Joined::Calls
        ));
        lookups.finish(&device("b"));
        assert!(lookups.is_empty() && lookups.waiting == Count::default());
    }

    #[test]
    fn a_call_that_says_nothing_is_overdue_after_its_deadline() {
        let mut lookups = Lookups::new(LIMITS);
        let a = device("a");
        lookups.join(&a, paused(2));
        lookups.called(&a, 7, 2, TIMEOUT);
        let period = Duration::from_millis(100);
        // 1,050 ms, and the part of a tick before the first.
        for tick in 1..=11 {
            assert!(lookups.overdue(period).is_empty(), "{tick}");
        }
        assert_eq!(lookups.overdue(period), [a]);
    }
}
