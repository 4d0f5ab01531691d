//! Which topic does an alias stand for (5.0, 3.3.2.3.4)? One side's aliases, as their receiver knows
//! them, and as their sender does.

use core::num::NonZeroU16;
use std::collections::BTreeMap;

use super::kind::Version;
use super::publish::Publish;
use super::topic::TopicName;

/// The aliases of one direction.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// The largest that may be used; 0 for none.
    most: u16,
    known: BTreeMap<NonZeroU16, Alias>,
    /// How many octets their topics have together, and may have.
    octets: usize,
    budget: usize,
}

#[derive(Debug)]
struct Alias {
    topic: Box<str>,
    /// Whether the receiver has seen a message that set it to this topic: one that was refused is not
    /// passed on, and sets nothing there.
    is_received: bool,
}

/// The topic of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// In the message, or known to the receiver by the alias.
    Plain(TopicName<'a>),
    /// The receiver does not know it by the alias: it has to be told.
    ToBeTold(TopicName<'a>),
}

/// What is wrong with an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadAlias {
    /// It is not set, or larger than may be.
    Unknown,
    /// The topics that aliases stand for have more octets together than may be kept.
    TooMuch,
    /// With its topic a message would be longer than packets are.
    TooLong,
}

impl<'a> Named<'a> {
    pub(super) const fn topic(&self) -> TopicName<'a> {
        match self {
            Self::Plain(topic) | Self::ToBeTold(topic) => *topic,
        }
    }

    /// The head of the message with its topic in it, where the receiver has to be told.
    pub(super) fn told(
        &self,
        publish: &Publish<'_>,
        version: Version,
    ) -> Result<Option<Vec<u8>>, BadAlias> {
        let Self::ToBeTold(topic) = *self else {
            return Ok(None);
        };
        let told = Publish {
            duplicate: publish.duplicate,
            qos: publish.qos,
            retain: publish.retain,
            topic: Some(topic),
            packet_identifier: publish.packet_identifier,
            properties: publish.properties,
            payload_octets: publish.payload_octets,
        };
        told.write(version).map(Some).ok_or(BadAlias::TooLong)
    }
}

impl Aliases {
    /// None may be used yet. Their topics are to have at most `budget` octets together.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// At most so many.
    pub(super) const fn allow(&mut self, most: u16) {
        self.most = most;
    }

    /// The topic of a message.
    pub(super) fn name<'a>(&'a self, publish: &Publish<'a>) -> Result<Named<'a>, BadAlias> {
        let Some(alias) = publish.topic_alias() else {
            return publish.topic.map(Named::Plain).ok_or(BadAlias::Unknown);
        };
        if alias.get() > self.most {
            return Err(BadAlias::Unknown);
        }
        if let Some(topic) = publish.topic {
            return Ok(Named::Plain(topic));
        }
        let known = self.known.get(&alias).ok_or(BadAlias::Unknown)?;
        let topic = TopicName::new(&known.topic).map_err(|_| BadAlias::Unknown)?;
        Ok(if known.is_received {
            Named::Plain(topic)
        } else {
            Named::ToBeTold(topic)
        })
    }

    /// The message goes on to the receiver, or does not: what its alias stands for from now on.
    pub(super) fn note(&mut self, publish: &Publish<'_>, passes: bool) -> Result<(), BadAlias> {
        let Some(alias) = publish.topic_alias() else {
            return Ok(());
        };
        if let Some(topic) = publish.topic {
            let octets = topic.as_str().len();
            let topic = topic.as_str().into();
            let is_received = passes;
            let before = self.known.insert(alias, Alias { topic, is_received });
            let before = before.map_or(0, |before| before.topic.len());
            self.octets = self.octets.saturating_sub(before).saturating_add(octets);
            if self.octets > self.budget {
                return Err(BadAlias::TooMuch);
            }
        } else if let Some(known) = self.known.get_mut(&alias) {
            known.is_received |= passes;
        }
        Ok(())
    }
}
