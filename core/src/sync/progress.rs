//! How a page, once applied, moves the control record on.

use crate::binding::{Binding, BindingState};
use crate::cache::{Applied, Buckets, CacheError, Control};
use crate::feed::FeedHeader;
use crate::time::Timestamp;

/// An answer that is being applied.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) generation: u32,
    pub(super) header: FeedHeader,
    pub(super) bindings: Vec<Binding>,
    pub(super) applied: usize,
    pub(super) position: u64,
    pub(super) unrecognised: u32,
    pub(super) unknown: u32,
    pub(super) received: Timestamp,
}

/// One part of a page, applied.
#[derive(Clone, Copy)]
pub(super) struct Step<'p> {
    pub(super) part: &'p [Binding],
    pub(super) applied: Applied,
    pub(super) done: bool,
}

pub(super) enum Outcome {
    GoOn,
    Switched { devices: u32 },
    LoadBroken,
}

/// Writes into the control record what a part of a page has done, and with its last part that the
/// page is done.
/// Also tells whether this part is the first that found no room.
pub(super) fn record_step(
    control: &mut Control,
    page: &Page,
    step: Step<'_>,
) -> Result<(Outcome, bool), CacheError> {
    let is_load = control
        .loading
        .as_ref()
        .is_some_and(|history| history.generation == page.generation);
    let history = if is_load {
        control.loading.as_mut()
    } else {
        control.active.as_mut()
    };
    let history = history
        .filter(|history| history.generation == page.generation)
        .ok_or(CacheError::Superseded)?;
    history.records = history.records.saturating_add(step.applied.added);
    let is_full = step.applied.left_out > 0 && !history.over_capacity;
    history.over_capacity |= is_full;
    let complete = history.complete;
    if step.done {
        history.feed = Some(page.header.feed.clone());
        history.cursor = Some(page.header.cursor.clone());
        history.position = page.position;
        history.head = page.header.head;
        if is_load && !complete {
            history.floor = page.position;
        }
        control.unrecognised = control
            .unrecognised
            .saturating_add(u64::from(page.unrecognised));
        control.clock_offset_millis = page
            .header
            .time
            .unix_millis()
            .saturating_sub(page.received.unix_millis());
    }
    // Of a history that is being read, readers see nothing but what is revoked. And told is also
    // what was written already: by a leader that was superseded before it could tell of it.
    let mut told = Buckets::default();
    for one in step.part {
        if !told.is_full() && (!is_load || one.state == BindingState::Revoked) {
            told.insert(control.bucket_of(one.device.as_str().as_bytes()));
        }
    }
    if !told.is_empty() {
        control.changes.tell(&told);
    }
    let lost = step.applied.corrupt > 0 && complete;
    if is_load && lost {
        return Ok((Outcome::LoadBroken, false));
    }
    // What was read from the beginning does not hold the device that such a record hides.
    control.reload |= lost || (step.done && !is_load && page.unknown > 0);
    if !step.done || (page.header.more && (!is_load || complete)) {
        return Ok((Outcome::GoOn, is_full));
    }
    if !is_load {
        control.hear(Some(page.received));
        return Ok((Outcome::GoOn, is_full));
    }
    control.active = control.loading.take();
    control.hear((!page.header.more).then_some(page.received));
    control.sweeping = true;
    control.changes.tell_everything();
    let devices = control.active.as_ref().map_or(0, |active| active.records);
    Ok((Outcome::Switched { devices }, is_full))
}
