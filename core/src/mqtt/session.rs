//! What passes of a session that was let in, and what is put in its place?
//!
//! A filter of Envoy's writes to its client only while the broker's octets pass, and to the broker
//! only while the client's do. So a packet that is refused, and whose answer the client waits for, is
//! replaced by a PINGREQ, and the broker's PINGRESP by the answer: in its order among the broker's
//! own. What is owed to the broker waits for the client's next octets, or for a tick.

use core::num::NonZeroU16;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::acknowledgement::{Acknowledgement, Connack, Outcome};
use super::aliases::{Aliases, BadAlias};
use super::kind::{Kind, Origin, QoS, Version};
use super::malformed::Malformed;
use super::properties::{Properties, PropertyId};
use super::publish::Publish;
use super::reader::{Packet, Piece, Reader};
use super::subscribe::Subscribe;
use super::topic::{TopicFilter, TopicName};

/// PINGREQ (3.12).
const PINGREQ: [u8; 2] = [0xC0, 0];
/// The most answers that wait for the broker, and the most packets that are owed to it.
const MOST_WAITING: usize = 1_024;
/// "Not authorized" (5.0, 2.4).
const NOT_AUTHORIZED: u8 = 0x87;
/// "Failure" of a SUBACK (3.1.1, 3.9.3).
const FAILURE: u8 = 0x80;

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Permitted,
    /// It may not.
    Refused,
}

/// Who knows what may pass.
pub trait Judge {
    /// A message from the client.
    fn publish(&mut self, topic: TopicName<'_>, qos: QoS, retain: bool) -> Verdict;
    /// What the client wants to hear of, or where it wants answers to be sent to.
    fn subscribe(&mut self, filter: TopicFilter<'_>, qos: QoS) -> Verdict;
    /// A message to the client.
    fn deliver(&mut self, topic: TopicName<'_>) -> Verdict;
}

/// What becomes of a message of 3.1.1 that is refused, and that the standard has no answer for
/// (3.1.1, 3.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unanswerable {
    /// The connection is closed.
    #[default]
    Close,
    /// The message is dropped, and acknowledged where it asks for that.
    Drop,
}

/// How a session is guarded.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What becomes of a refused message of 3.1.1.
    pub unanswerable: Unanswerable,
    /// Whether AUTH passes (5.0, 4.12).
    pub authentication: bool,
    /// The most topic aliases in each direction (5.0, 3.3.2.3.4).
    pub topic_aliases: u16,
    /// The most octets that are kept of either side.
    pub budget: usize,
}

/// Why a session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closing {
    /// The client sends no MQTT.
    #[error("the client: {0}")]
    Client(Malformed),
    /// The broker sends no MQTT.
    #[error("the broker: {0}")]
    Broker(Malformed),
    /// A message of 3.1.1 is refused.
    #[error("a message was refused, and MQTT 3.1.1 has no answer that says so")]
    Refused,
    /// AUTH, which does not pass.
    #[error("an AUTH is not let through")]
    Authentication,
    /// A topic alias that was never set, or beyond the maximum (5.0, 3.3.2.3.4).
    #[error("a topic alias was not set, or is larger than was allowed")]
    TopicAlias,
    /// Too much waits for the broker's answer.
    #[error("more than {MOST_WAITING} answers wait for the broker")]
    TooMuch,
    /// A packet would be longer than packets are.
    #[error("what a packet is to be replaced by is longer than packets are")]
    TooLong,
}

impl From<BadAlias> for Closing {
    fn from(bad: BadAlias) -> Self {
        match bad {
            BadAlias::Unknown => Self::TopicAlias,
            BadAlias::TooMuch => Self::TooMuch,
            BadAlias::TooLong => Self::TooLong,
        }
    }
}

impl Closing {
    /// The reason of a DISCONNECT (5.0, 3.14.2.1).
    pub const fn reason(self) -> u8 {
        match self {
            Self::Client(Malformed::TooLarge { .. }) => 0x95,
            Self::Client(_) => 0x81,
            Self::Broker(_) | Self::TooLong => 0x83,
            Self::Refused => NOT_AUTHORIZED,
            Self::Authentication => 0x8C,
            Self::TopicAlias => 0x94,
            Self::TooMuch => 0x97,
        }
    }
}

/// What goes on in the place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    /// The segment, as it came.
    Unchanged,
    /// These octets; there may be none.
    Changed(Vec<u8>),
}

/// What happened in a segment: to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages, subscriptions and deliveries that passed.
    pub permitted: u32,
    /// The same that did not.
    pub refused: u32,
}

/// A packet that the broker answers with a PINGRESP.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ping {
    /// The client's own.
    Client,
    /// Ours: this goes to the client in the answer's place.
    Answer(Vec<u8>),
}

/// What became of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What goes on in its place.
    pub onward: Onward,
    /// What is to be counted.
    pub tally: Tally,
    /// Why the session ends here, where it does: nothing after this may pass, in either direction.
    pub closing: Option<Closing>,
}

/// A session that was let in.
#[derive(Debug)]
pub struct Session {
    client: Reader,
    broker: Reader,
    state: State,
}

/// All of a session but what reads it.
#[derive(Debug)]
struct State {
    terms: Terms,
    version: Version,
    /// What the broker's next answers to pings are for.
    pings: VecDeque<Ping>,
    /// Subscriptions that went on without some of their filters, by packet identifier: for each filter
    /// whether it was refused.
    partial: BTreeMap<NonZeroU16, Vec<bool>>,
    /// The filters of those.
    partial_filters: usize,
    /// Messages of `QoS` 2 from the client that were dropped: their PUBREL is for us.
    dropped: BTreeSet<NonZeroU16>,
    /// The same from the broker.
    withheld: BTreeSet<NonZeroU16>,
    /// What is to be written to the broker before the client's next packet.
    owed: Vec<u8>,
    from_client: Aliases,
    from_broker: Aliases,
    /// Whether the client's payload that streams by goes on to the broker.
    client_payload_passes: bool,
    /// The same of the broker's, to the client.
    broker_payload_passes: bool,
    tally: Tally,
}

/// What goes on in a segment's place, as it is put together.
struct Assembly<'i> {
    input: &'i [u8],
    /// How many octets from the segment's first have passed as they came.
    passed: usize,
    /// All that passes, once it is other than the segment.
    changed: Option<Vec<u8>>,
}

impl<'i> Assembly<'i> {
    const fn new(input: &'i [u8]) -> Self {
        Self {
            input,
            passed: 0,
            changed: None,
        }
    }

    fn changed(&mut self) -> &mut Vec<u8> {
        let (input, passed) = (self.input, self.passed);
        self.changed
            .get_or_insert_with(|| input.get(..passed).unwrap_or_default().to_vec())
    }

    /// These pass: the next of the segment where `is_next`, or what was kept of the ones before.
    fn pass(&mut self, octets: &[u8], is_next: bool) {
        if self.changed.is_none() && is_next {
            self.passed = self.passed.saturating_add(octets.len());
        } else {
            self.changed().extend_from_slice(octets);
        }
    }

    /// These are put in, in the place of what came or beside it.
    fn put(&mut self, octets: &[u8]) {
        self.changed().extend_from_slice(octets);
    }

    /// What came does not pass.
    fn leave_out(&mut self) {
        self.changed();
    }

    fn finish(mut self) -> Onward {
        if self.changed.is_none() && self.passed == self.input.len() {
            return Onward::Unchanged;
        }
        Onward::Changed(core::mem::take(self.changed()))
    }
}

impl Session {
    /// A session whose CONNECT was permitted and has been read by `client`. The broker may use topic
    /// aliases up to `broker_aliases`, as the CONNECT that it gets says.
    pub fn new(client: Reader, version: Version, terms: Terms, broker_aliases: u16) -> Self {
        let mut broker = Reader::new(Origin::Broker, terms.budget);
        broker.speaks(version);
        let mut from_broker = Aliases::new(terms.budget);
        from_broker.allow(broker_aliases);
        Self {
            client,
            broker,
            state: State {
                terms,
                version,
                pings: VecDeque::new(),
                partial: BTreeMap::new(),
                partial_filters: 0,
                dropped: BTreeSet::new(),
                withheld: BTreeSet::new(),
                owed: Vec::new(),
                from_client: Aliases::new(terms.budget),
                from_broker,
                client_payload_passes: true,
                broker_payload_passes: true,
                tally: Tally::default(),
            },
        }
    }

    /// The client has sent this.
    pub fn from_client(&mut self, segment: &[u8], judge: &mut dyn Judge) -> Step {
        let mut assembly = Assembly::new(segment);
        let mut input = segment;
        let closing = loop {
            let before = input.len();
            let piece = match self.client.next(&mut input) {
                Ok(Some(piece)) => piece,
                Ok(None) => break None,
                Err(error) => break Some(Closing::Client(error)),
            };
            let taken = before.saturating_sub(input.len());
            let done = self.state.of_client(piece, taken, &mut assembly, judge);
            if let Err(closing) = done {
                break Some(closing);
            }
        };
        self.state.step(assembly, closing)
    }

    /// The broker has sent this.
    pub fn from_broker(&mut self, segment: &[u8], judge: &mut dyn Judge) -> Step {
        let mut assembly = Assembly::new(segment);
        let mut input = segment;
        let closing = loop {
            let before = input.len();
            let piece = match self.broker.next(&mut input) {
                Ok(Some(piece)) => piece,
                Ok(None) => break None,
                Err(error) => break Some(Closing::Broker(error)),
            };
            let taken = before.saturating_sub(input.len());
            let done = self.state.of_broker(piece, taken, &mut assembly, judge);
            if let Err(closing) = done {
                break Some(closing);
            }
        };
        self.state.step(assembly, closing)
    }

    /// What the broker is to get though the client says nothing. Empty where there is nothing, or where
    /// a packet of the client's is half through.
    pub fn take_owed(&mut self) -> Vec<u8> {
        if self.client.is_in_payload() && self.state.client_payload_passes {
            return Vec::new();
        }
        core::mem::take(&mut self.state.owed)
    }
}

impl State {
    fn step(&mut self, assembly: Assembly<'_>, closing: Option<Closing>) -> Step {
        Step {
            onward: assembly.finish(),
            tally: core::mem::take(&mut self.tally),
            closing,
        }
    }

    /// Counts what was judged, and gives whether it passes.
    const fn count(&mut self, verdict: Verdict) -> bool {
        let (passes, count) = match verdict {
            Verdict::Permitted => (true, &mut self.tally.permitted),
            Verdict::Refused => (false, &mut self.tally.refused),
        };
        *count = count.saturating_add(1);
        passes
    }

    fn of_client(
        &mut self,
        piece: Piece<'_>,
        taken: usize,
        assembly: &mut Assembly<'_>,
        judge: &mut dyn Judge,
    ) -> Result<(), Closing> {
        let (packet, octets) = match piece {
            Piece::Packet(packet, octets) => (packet, octets),
            Piece::Payload(octets) if self.client_payload_passes => {
                assembly.pass(octets, true);
                return Ok(());
            }
            Piece::Payload(_) => {
                assembly.leave_out();
                return Ok(());
            }
        };
        if !self.owed.is_empty() {
            assembly.put(&core::mem::take(&mut self.owed));
        }
        let passes = match packet {
            Packet::Publish(publish) => {
                return self.publish(&publish, octets, taken, assembly, judge);
            }
            Packet::Subscribe(subscribe) => {
                return self.subscribe(&subscribe, octets, taken, assembly, judge);
            }
            Packet::Pubrel(pubrel) => {
                let identifier = pubrel.packet_identifier;
                if self.dropped.remove(&identifier) {
                    return self.acknowledge(Kind::Pubcomp, identifier, 0, assembly);
                }
                true
            }
            Packet::Pingreq => {
                self.expect(Ping::Client)?;
                true
            }
            Packet::Auth(_) => self.terms.authentication,
            Packet::Puback(_)
            | Packet::Pubrec(_)
            | Packet::Pubcomp(_)
            | Packet::Unsubscribe(_)
            | Packet::Disconnect(_) => true,
            // What a client does not send is no packet of its own; the reader says so first.
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => false,
        };
        if !passes {
            return Err(Closing::Authentication);
        }
        assembly.pass(octets, taken == octets.len());
        Ok(())
    }

    fn publish(
        &mut self,
        publish: &Publish<'_>,
        octets: &[u8],
        taken: usize,
        assembly: &mut Assembly<'_>,
        judge: &mut dyn Judge,
    ) -> Result<(), Closing> {
        let named = self.from_client.name(publish)?;
        let mut verdict = judge.publish(named.topic(), publish.qos, publish.retain);
        if verdict == Verdict::Permitted
            && let Some(response) = publish.response_topic()
        {
            // A name is a filter that matches itself alone, but where it begins with $share.
            verdict = match TopicFilter::new(response.as_str()) {
                Ok(filter) => judge.subscribe(filter, publish.qos),
                Err(_) => Verdict::Refused,
            };
        }
        let told = named.told(publish, self.version)?;
        let passes = self.count(verdict);
        self.from_client.note(publish, passes)?;
        self.client_payload_passes = passes;
        if !passes {
            return self.refuse(publish, assembly);
        }
        match told {
            Some(told) => assembly.put(&told),
            None => assembly.pass(octets, taken == octets.len()),
        }
        Ok(())
    }

    /// A message of the client's does not pass.
    fn refuse(
        &mut self,
        publish: &Publish<'_>,
        assembly: &mut Assembly<'_>,
    ) -> Result<(), Closing> {
        let reason = match self.version {
            Version::V5 => NOT_AUTHORIZED,
            Version::V3 => match self.terms.unanswerable {
                Unanswerable::Close => return Err(Closing::Refused),
                Unanswerable::Drop => 0,
            },
        };
        match (publish.qos, publish.packet_identifier) {
            (QoS::AtLeastOnce, Some(identifier)) => {
                self.acknowledge(Kind::Puback, identifier, reason, assembly)
            }
            (QoS::ExactlyOnce, Some(identifier)) => {
                if reason == 0 {
                    remember(&mut self.dropped, identifier)?;
                }
                self.acknowledge(Kind::Pubrec, identifier, reason, assembly)
            }
            (QoS::AtMostOnce, _) | (_, None) => {
                assembly.leave_out();
                Ok(())
            }
        }
    }

    fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        octets: &[u8],
        taken: usize,
        assembly: &mut Assembly<'_>,
        judge: &mut dyn Judge,
    ) -> Result<(), Closing> {
        let judged = subscribe
            .subscriptions()
            .map(|one| judge.subscribe(one.filter, one.qos));
        let refused: Vec<bool> = judged.map(|verdict| !self.count(verdict)).collect();
        if !refused.contains(&true) {
            assembly.pass(octets, taken == octets.len());
            return Ok(());
        }
        let identifier = subscribe.packet_identifier;
        if refused.contains(&false) {
            let mut places = refused.iter();
            let kept = subscribe.write(|_| places.next() == Some(&false));
            assembly.put(&kept.ok_or(Closing::TooLong)?);
            self.partial_filters = self.partial_filters.saturating_add(refused.len());
            if self.partial_filters > self.terms.budget || self.partial.len() >= MOST_WAITING {
                return Err(Closing::TooMuch);
            }
            let before = self.partial.insert(identifier, refused);
            self.forget_filters(before.as_deref());
            return Ok(());
        }
        let codes = vec![self.refused_filter(); refused.len()];
        let suback = Outcome {
            packet_identifier: identifier,
            properties: Properties::NONE,
            codes: &codes,
        };
        let suback = suback.write(Kind::Suback, self.version);
        self.answer(suback.ok_or(Closing::TooLong)?, assembly)
    }

    const fn refused_filter(&self) -> u8 {
        match self.version {
            Version::V3 => FAILURE,
            Version::V5 => NOT_AUTHORIZED,
        }
    }

    fn forget_filters(&mut self, of: Option<&[bool]>) {
        let filters = of.map_or(0, <[bool]>::len);
        self.partial_filters = self.partial_filters.saturating_sub(filters);
    }

    fn acknowledge(
        &mut self,
        kind: Kind,
        packet_identifier: NonZeroU16,
        reason: u8,
        assembly: &mut Assembly<'_>,
    ) -> Result<(), Closing> {
        let packet = self.acknowledgement(kind, packet_identifier, reason)?;
        self.answer(packet, assembly)
    }

    fn acknowledgement(
        &self,
        kind: Kind,
        packet_identifier: NonZeroU16,
        reason: u8,
    ) -> Result<Vec<u8>, Closing> {
        let packet = Acknowledgement {
            packet_identifier,
            reason,
            properties: Properties::NONE,
        };
        packet.write(kind, self.version).ok_or(Closing::TooLong)
    }

    /// The client gets `packet` in its turn: a PINGREQ stands for what it answers.
    fn answer(&mut self, packet: Vec<u8>, assembly: &mut Assembly<'_>) -> Result<(), Closing> {
        self.expect(Ping::Answer(packet))?;
        assembly.put(&PINGREQ);
        Ok(())
    }

    fn expect(&mut self, ping: Ping) -> Result<(), Closing> {
        if self.pings.len() >= MOST_WAITING {
            return Err(Closing::TooMuch);
        }
        self.pings.push_back(ping);
        Ok(())
    }

    fn of_broker(
        &mut self,
        piece: Piece<'_>,
        taken: usize,
        assembly: &mut Assembly<'_>,
        judge: &mut dyn Judge,
    ) -> Result<(), Closing> {
        let (packet, octets) = match piece {
            Piece::Packet(packet, octets) => (packet, octets),
            Piece::Payload(octets) if self.broker_payload_passes => {
                assembly.pass(octets, true);
                return Ok(());
            }
            Piece::Payload(_) => {
                assembly.leave_out();
                return Ok(());
            }
        };
        match packet {
            Packet::Publish(publish) => {
                return self.deliver(&publish, octets, taken, assembly, judge);
            }
            Packet::Connack(connack) => {
                if let Some(changed) = self.connack(&connack)? {
                    assembly.put(&changed);
                    return Ok(());
                }
            }
            Packet::Suback(suback) => {
                if let Some(refused) = self.partial.remove(&suback.packet_identifier) {
                    self.forget_filters(Some(&refused));
                    assembly.put(&self.with_refused(&suback, &refused)?);
                    return Ok(());
                }
            }
            Packet::Pingresp => {
                if let Some(Ping::Answer(answer)) = self.pings.pop_front() {
                    assembly.put(&answer);
                    return Ok(());
                }
            }
            Packet::Pubrel(pubrel) => {
                let identifier = pubrel.packet_identifier;
                if self.withheld.remove(&identifier) {
                    let pubcomp = self.acknowledgement(Kind::Pubcomp, identifier, 0)?;
                    assembly.leave_out();
                    return self.owe(&pubcomp);
                }
            }
            Packet::Auth(_) if !self.terms.authentication => return Err(Closing::Authentication),
            Packet::Auth(_)
            | Packet::Puback(_)
            | Packet::Pubrec(_)
            | Packet::Pubcomp(_)
            | Packet::Unsuback(_)
            | Packet::Disconnect(_) => {}
            // What a broker does not send; the reader says so first.
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq => return Err(Closing::Authentication),
        }
        assembly.pass(octets, taken == octets.len());
        Ok(())
    }

    /// The client may use as many topic aliases as the broker lets it and no more than are kept here.
    /// Gives the packet where that changes it.
    fn connack(&mut self, connack: &Connack<'_>) -> Result<Option<Vec<u8>>, Closing> {
        let number = connack.properties.number(PropertyId::TopicAliasMaximum);
        let most = number.map_or(0, |most| u16::try_from(most).unwrap_or(u16::MAX));
        let ours = self.terms.topic_aliases;
        self.from_client.allow(most.min(ours));
        if most <= ours {
            return Ok(None);
        }
        let properties = with_topic_aliases(connack.properties, ours);
        let changed = Connack {
            properties: Properties::known_good(&properties),
            ..*connack
        };
        changed
            .write(self.version)
            .map(Some)
            .ok_or(Closing::TooLong)
    }

    fn deliver(
        &mut self,
        publish: &Publish<'_>,
        octets: &[u8],
        taken: usize,
        assembly: &mut Assembly<'_>,
        judge: &mut dyn Judge,
    ) -> Result<(), Closing> {
        let named = self.from_broker.name(publish)?;
        let verdict = judge.deliver(named.topic());
        let told = named.told(publish, self.version)?;
        let passes = self.count(verdict);
        self.from_broker.note(publish, passes)?;
        self.broker_payload_passes = passes;
        if passes {
            match told {
                Some(told) => assembly.put(&told),
                None => assembly.pass(octets, taken == octets.len()),
            }
            return Ok(());
        }
        assembly.leave_out();
        let reason = match self.version {
            Version::V3 => 0,
            Version::V5 => NOT_AUTHORIZED,
        };
        match (publish.qos, publish.packet_identifier) {
            (QoS::AtLeastOnce, Some(identifier)) => {
                let puback = self.acknowledgement(Kind::Puback, identifier, reason)?;
                self.owe(&puback)
            }
            (QoS::ExactlyOnce, Some(identifier)) => {
                if reason == 0 {
                    remember(&mut self.withheld, identifier)?;
                }
                let pubrec = self.acknowledgement(Kind::Pubrec, identifier, reason)?;
                self.owe(&pubrec)
            }
            (QoS::AtMostOnce, _) | (_, None) => Ok(()),
        }
    }

    fn owe(&mut self, packet: &[u8]) -> Result<(), Closing> {
        if self.owed.len().saturating_add(packet.len()) > self.terms.budget {
            return Err(Closing::TooMuch);
        }
        self.owed.extend_from_slice(packet);
        Ok(())
    }

    /// The broker's SUBACK, with the codes of the filters that it never saw.
    fn with_refused(&self, suback: &Outcome<'_>, refused: &[bool]) -> Result<Vec<u8>, Closing> {
        let mut given = suback.codes.iter();
        let mut codes = Vec::with_capacity(refused.len());
        for refused in refused {
            let code = if *refused {
                Some(self.refused_filter())
            } else {
                given.next().copied()
            };
            codes.push(code.ok_or(Closing::Broker(Malformed::CutShort))?);
        }
        if given.next().is_some() {
            return Err(Closing::Broker(Malformed::Trailing));
        }
        let whole = Outcome {
            codes: &codes,
            ..*suback
        };
        whole
            .write(Kind::Suback, self.version)
            .ok_or(Closing::TooLong)
    }
}

fn remember(set: &mut BTreeSet<NonZeroU16>, identifier: NonZeroU16) -> Result<(), Closing> {
    set.insert(identifier);
    if set.len() > MOST_WAITING {
        return Err(Closing::TooMuch);
    }
    Ok(())
}

/// Properties with this as the most topic aliases, which is put at their end; 0 is left out, since it
/// is what none says.
pub(super) fn with_topic_aliases(properties: Properties<'_>, most: u16) -> Vec<u8> {
    let mut octets = properties.filtered(|id| id != PropertyId::TopicAliasMaximum);
    if most > 0 {
        // A property's number is one octet long, as all are (5.0, table 2-4).
        octets.push(0x22);
        octets.extend_from_slice(&most.to_be_bytes());
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TERMS: Terms = Terms {
        unanswerable: Unanswerable::Close,
        authentication: false,
        topic_aliases: 4,
        budget: 1_024,
    };
    const DROPS: Terms = Terms {
        unanswerable: Unanswerable::Drop,
        ..TERMS
    };

    /// Refuses every topic with an x in it, and every filter.
    struct NoX;

    impl NoX {
        fn of(text: &str) -> Verdict {
            if text.contains('x') {
                Verdict::Refused
            } else {
                Verdict::Permitted
            }
        }
    }

    impl Judge for NoX {
        fn publish(&mut self, topic: TopicName<'_>, _: QoS, _: bool) -> Verdict {
            Self::of(topic.as_str())
        }

        fn subscribe(&mut self, filter: TopicFilter<'_>, _: QoS) -> Verdict {
            Self::of(filter.as_str())
        }

        fn deliver(&mut self, topic: TopicName<'_>) -> Verdict {
            Self::of(topic.as_str())
        }
    }

    fn session(version: Version, terms: Terms) -> Session {
        let mut client = Reader::new(Origin::Client, terms.budget);
        client.speaks(version);
        Session::new(client, version, terms, terms.topic_aliases)
    }

    fn octets(step: &Step, segment: &[u8]) -> Vec<u8> {
        match &step.onward {
            Onward::Unchanged => segment.to_vec(),
            Onward::Changed(octets) => octets.clone(),
        }
    }

    /// What goes on to the broker, and what the session ends by.
    fn to_broker(session: &mut Session, segment: &[u8]) -> (Vec<u8>, Option<Closing>) {
        let step = session.from_client(segment, &mut NoX);
        (octets(&step, segment), step.closing)
    }

    fn to_client(session: &mut Session, segment: &[u8]) -> (Vec<u8>, Option<Closing>) {
        let step = session.from_broker(segment, &mut NoX);
        (octets(&step, segment), step.closing)
    }

    /// A broker's CONNACK that allows two topic aliases.
    const TWO_ALIASES: &[u8] = b"\x20\x06\0\0\x03\x22\0\x02";

    #[test]
    fn what_is_permitted_passes_as_it_came() {
        let segment = b"\x30\x06\0\x01aPAY\xc0\0\x82\x06\0\x01\0\x01a\0\xe0\0";
        let step = session(Version::V3, TERMS).from_client(segment, &mut NoX);
        assert_eq!((step.onward, step.closing), (Onward::Unchanged, None));
        assert_eq!((step.tally.permitted, step.tally.refused), (2, 0));
        let segment = b"\x30\x06\0\x01aPAY\xd0\0\x40\x02\0\x01";
        let step = session(Version::V3, TERMS).from_broker(segment, &mut NoX);
        assert_eq!((step.onward, step.closing), (Onward::Unchanged, None));
    }

    #[test]
    fn a_refused_message_is_answered_in_its_turn_and_its_payload_goes_nowhere() {
        let mut session = session(Version::V5, TERMS);
        let segment =
            b"\xc0\0\x32\x09\0\x01x\0\x07\0PAY\x34\x09\0\x01x\0\x08\0PAY\x30\x07\0\x01x\0PAY\xc0\0";
        let (there, closing) = to_broker(&mut session, segment);
        assert_eq!(closing, None);
        assert_eq!(there, b"\xc0\0\xc0\0\xc0\0\xc0\0");
        let (here, closing) = to_client(&mut session, b"\xd0\0\xd0\0\xd0\0\xd0\0");
        assert_eq!(closing, None);
        assert_eq!(here, b"\xd0\0\x40\x03\0\x07\x87\x50\x03\0\x08\x87\xd0\0");
        // In pieces, too.
        let (there, _) = to_broker(&mut session, b"\x32\x09\0\x01x\0");
        assert!(there.is_empty());
        let (there, _) = to_broker(&mut session, b"\x07\0PA");
        assert_eq!(there, b"\xc0\0");
        let (there, _) = to_broker(&mut session, b"Y\xc0\0");
        assert_eq!(there, b"\xc0\0");
    }

    #[test]
    fn mqtt_3_closes_where_a_message_is_refused_or_drops_it_and_says_yes() {
        for segment in [
            &b"\x30\x04\0\x01xP"[..],
            b"\x32\x06\0\x01x\0\x07P",
            b"\x34\x06\0\x01x\0\x07P",
        ] {
            let segment = [b"\xc0\0", segment].concat();
            let (there, closing) = to_broker(&mut session(Version::V3, TERMS), &segment);
            assert_eq!(
                (&there[..], closing),
                (&b"\xc0\0"[..], Some(Closing::Refused))
            );
        }
        let mut session = session(Version::V3, DROPS);
        let segment = b"\x30\x04\0\x01xP\x32\x06\0\x01x\0\x07P\x34\x06\0\x01x\0\x08P";
        let (there, closing) = to_broker(&mut session, segment);
        assert_eq!((&there[..], closing), (&b"\xc0\0\xc0\0"[..], None));
        let (here, _) = to_client(&mut session, b"\xd0\0\xd0\0");
        assert_eq!(here, b"\x40\x02\0\x07\x50\x02\0\x08");
        // The rest of the exchange of QoS 2 is with us, once.
        let (there, _) = to_broker(&mut session, b"\x62\x02\0\x08");
        assert_eq!(there, b"\xc0\0");
        assert_eq!(to_client(&mut session, b"\xd0\0").0, b"\x70\x02\0\x08");
        assert_eq!(
            to_broker(&mut session, b"\x62\x02\0\x08").0,
            b"\x62\x02\0\x08"
        );
    }

    #[test]
    fn of_filters_those_that_are_permitted_go_on_and_each_has_its_code() {
        for (version, subscribe, kept, suback, whole) in [
            (
                Version::V3,
                &b"\x82\x0e\0\x05\0\x01x\0\0\x01a\x01\0\x01x\x02"[..],
                &b"\x82\x06\0\x05\0\x01a\x01"[..],
                &b"\x90\x03\0\x05\x01"[..],
                &b"\x90\x05\0\x05\x80\x01\x80"[..],
            ),
            (
                Version::V5,
                b"\x82\x0f\0\x05\0\0\x01x\0\0\x01a\x01\0\x01x\x02",
                b"\x82\x07\0\x05\0\0\x01a\x01",
                b"\x90\x04\0\x05\0\x01",
                b"\x90\x06\0\x05\0\x87\x01\x87",
            ),
        ] {
            let mut session = session(version, TERMS);
            let step = session.from_client(subscribe, &mut NoX);
            assert_eq!(octets(&step, subscribe), kept);
            assert_eq!((step.tally.permitted, step.tally.refused), (1, 2));
            assert_eq!(to_client(&mut session, suback).0, whole);
            // Once.
            assert_eq!(to_client(&mut session, suback).0, suback);
        }
        let mut session = session(Version::V3, TERMS);
        let (there, _) = to_broker(&mut session, b"\x82\x06\0\x05\0\x01x\0");
        assert_eq!(there, b"\xc0\0");
        assert_eq!(to_client(&mut session, b"\xd0\0").0, b"\x90\x03\0\x05\x80");
    }

    #[test]
    fn a_broker_that_answers_for_other_filters_ends_the_session() {
        for (suback, error) in [
            (&b"\x90\x02\0\x05"[..], Malformed::CutShort),
            (b"\x90\x04\0\x05\0\0", Malformed::Trailing),
        ] {
            let mut session = session(Version::V3, TERMS);
            to_broker(&mut session, b"\x82\x0a\0\x05\0\x01x\0\0\x01a\x01");
            let (here, closing) = to_client(&mut session, suback);
            assert_eq!((here.len(), closing), (0, Some(Closing::Broker(error))));
        }
    }

    #[test]
    fn an_alias_stands_for_what_its_sender_means_by_it() {
        let mut session = session(Version::V5, TERMS);
        let set =
            |topic: u8, alias: u8| [&b"\x30\x07\0\x01"[..], &[topic, 3, 0x23, 0, alias]].concat();
        let by = |alias: u8| [&b"\x30\x06\0\0\x03\x23\0"[..], &[alias]].concat();
        // None is allowed before the broker says so.
        let mut early = super::tests::session(Version::V5, TERMS);
        assert_eq!(
            to_broker(&mut early, &set(b'a', 1)).1,
            Some(Closing::TopicAlias)
        );
        assert_eq!(to_client(&mut session, TWO_ALIASES).0, TWO_ALIASES);
        assert_eq!(to_broker(&mut session, &set(b'a', 1)).0, set(b'a', 1));
        assert_eq!(to_broker(&mut session, &by(1)).0, by(1));
        // Set to what is refused: the broker does not hear of it, and its own alias is another.
        assert_eq!(to_broker(&mut session, &set(b'x', 1)), (Vec::new(), None));
        assert_eq!(to_broker(&mut session, &by(1)), (Vec::new(), None));
        for bad in [by(2), by(3), set(b'a', 3)] {
            let (there, closing) = to_broker(&mut session, &bad);
            assert_eq!((there.len(), closing), (0, Some(Closing::TopicAlias)));
        }
    }

    #[test]
    fn who_does_not_know_an_alias_is_told_its_topic() {
        /// Permits after it has refused once.
        struct Once(bool);
        impl Judge for Once {
            fn publish(&mut self, _: TopicName<'_>, _: QoS, _: bool) -> Verdict {
                if std::mem::replace(&mut self.0, true) {
                    Verdict::Permitted
                } else {
                    Verdict::Refused
                }
            }
            fn subscribe(&mut self, _: TopicFilter<'_>, _: QoS) -> Verdict {
                Verdict::Refused
            }
            fn deliver(&mut self, _: TopicName<'_>) -> Verdict {
                Verdict::Refused
            }
        }
        let mut session = session(Version::V5, TERMS);
        to_client(&mut session, TWO_ALIASES);
        let mut once = Once(false);
        let set = b"\x30\x08\0\x01a\x03\x23\0\x01P";
        let by = b"\x30\x07\0\0\x03\x23\0\x01P";
        let step = session.from_client(set, &mut once);
        assert_eq!(step.onward, Onward::Changed(Vec::new()));
        let step = session.from_client(by, &mut once);
        assert_eq!(step.onward, Onward::Changed(set.to_vec()));
        let step = session.from_client(by, &mut once);
        assert_eq!(step.onward, Onward::Unchanged);
        // Answers are to be sent where nobody may listen.
        let step = session.from_client(b"\x30\x08\0\x01a\x04\x08\0\x01b", &mut once);
        assert_eq!(step.onward, Onward::Changed(Vec::new()));
    }

    #[test]
    fn the_client_is_allowed_no_more_aliases_than_are_kept() {
        let mut session = session(Version::V5, TERMS);
        let (here, _) = to_client(&mut session, b"\x20\x08\0\0\x05\x22\0\x0a\x24\x01");
        assert_eq!(here, b"\x20\x08\0\0\x05\x24\x01\x22\0\x04");
        // Their topics have a bound, too.
        let long = "a".repeat(900);
        for (alias, closing) in [(1, None), (1, None), (2, Some(Closing::TooMuch))] {
            let mut publish = b"\x30\x8a\x07\x03\x84".to_vec();
            publish.extend_from_slice(long.as_bytes());
            publish.extend_from_slice(&[3, 0x23, 0, alias]);
            assert_eq!(to_broker(&mut session, &publish).1, closing);
        }
    }

    #[test]
    fn a_message_that_the_client_may_not_have_is_acknowledged_for_it() {
        let delivered = b"\x30\x04\0\x01xP\x32\x06\0\x01x\0\x07P\x34\x06\0\x01x\0\x08P\xd0\0";
        let mut session = session(Version::V3, TERMS);
        let (here, closing) = to_client(&mut session, delivered);
        assert_eq!((&here[..], closing), (&b"\xd0\0"[..], None));
        // With the client's next packet.
        let (there, _) = to_broker(&mut session, b"\xc0\0");
        assert_eq!(there, b"\x40\x02\0\x07\x50\x02\0\x08\xc0\0");
        assert_eq!(to_client(&mut session, b"\x62\x02\0\x08").0, b"");
        assert_eq!(session.take_owed(), b"\x70\x02\0\x08");
        assert_eq!(session.take_owed(), b"");
        // Never in the middle of a message.
        to_broker(&mut session, b"\x30\x05\0\x01aP");
        to_client(&mut session, b"\x32\x06\0\x01x\0\x07P");
        assert_eq!(session.take_owed(), b"");
        assert_eq!(
            to_broker(&mut session, b"P\xc0\0").0,
            b"P\x40\x02\0\x07\xc0\0"
        );
    }

    #[test]
    fn an_auth_passes_where_the_terms_say_so() {
        for (authentication, closing) in [(true, None), (false, Some(Closing::Authentication))] {
            let terms = Terms {
                authentication,
                ..TERMS
            };
            let mut session = session(Version::V5, terms);
            assert_eq!(to_broker(&mut session, b"\xf0\0").1, closing);
            assert_eq!(to_client(&mut session, b"\xf0\0").1, closing);
        }
    }

    #[test]
    fn what_waits_for_the_broker_has_a_bound() {
        let mut session = session(Version::V3, TERMS);
        for _ in 0..MOST_WAITING {
            assert_eq!(to_broker(&mut session, b"\xc0\0").1, None);
        }
        assert_eq!(to_broker(&mut session, b"\xc0\0").1, Some(Closing::TooMuch));
        let mut session = super::tests::session(Version::V3, TERMS);
        let owed = (0..=256).find_map(|_| to_client(&mut session, b"\x32\x05\0\x01x\0\x07").1);
        assert_eq!(owed, Some(Closing::TooMuch));
    }
}
