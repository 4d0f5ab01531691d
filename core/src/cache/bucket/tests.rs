//! One bucket, octet by octet: what it says to a reader, and what a writer makes of it.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::binding::BindingState;
use crate::cache::tests::{NOW, binding, device};

/// The generations of most buckets here: bit 0 and bit 1.
const A: u32 = 7;
const B: u32 = 9;

fn header() -> Header {
    Header {
        generations: [A, B],
        ..Header::default()
    }
}

fn bucket(header: Header, records: &[(NewRecord, u8)]) -> Vec<u8> {
    let mut octets = Vec::new();
    header.put(&mut octets);
    for (record, mask) in records {
        record.as_raw().put(&mut octets, *mask);
    }
    octets
}

fn record(n: usize, state: BindingState, revision: u64) -> NewRecord {
    NewRecord::binding(&binding(n, state, revision))
}

fn active(n: usize, revision: u64) -> NewRecord {
    record(n, BindingState::Active, revision)
}

fn revoked(n: usize, revision: u64) -> NewRecord {
    record(n, BindingState::Revoked, revision)
}

fn no_device(n: usize, milliseconds_left: i64) -> NewRecord {
    let until = Timestamp::from_unix_millis(NOW.unix_millis() + milliseconds_left);
    NewRecord::no_device(&device(n), 1, until)
}

fn content(record: &NewRecord) -> Result<Found, Corrupt> {
    record.as_raw().content().map(Found::Content)
}

fn target(generation: u32) -> Target {
    Target {
        generation,
        live: [A, B],
        term: None,
        is_confirmed: true,
        now: NOW,
    }
}

/// Device, generations and revision of each record, in their order.
fn records(octets: &[u8]) -> Vec<(String, u8, u64)> {
    let (_, records) = read_all(octets).unwrap();
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    let line = |r: &RawRecord<'_>| (text(r.device()), r.mask(), r.revision().unwrap());
    records.iter().map(line).collect()
}

fn line(n: usize, mask: u8, revision: u64) -> (String, u8, u64) {
    (device(n).as_str().to_owned(), mask, revision)
}

#[test]
fn a_reader_gets_the_record_of_its_generation() {
    let octets = bucket(
        header(),
        &[
            (active(1, 5), 0b10),
            (active(1, 4), 0b01),
            (active(2, 6), 0b11),
        ],
    );
    assert_eq!(find(&octets, A, &device(1)), content(&active(1, 4)));
    assert_eq!(find(&octets, B, &device(1)), content(&active(1, 5)));
    assert_eq!(find(&octets, A, &device(2)), content(&active(2, 6)));
    assert_eq!(find(&octets, B, &device(2)), content(&active(2, 6)));
    assert_eq!(find(&octets, B, &device(3)), Ok(Found::Nothing));
}

#[test]
fn a_reader_gets_what_is_revoked_wherever_it_stands() {
    let (living, dead) = (active(1, 5), revoked(1, 3));
    let alone = bucket(header(), &[(dead.clone(), 0b10)]);
    let of_none = bucket(header(), &[(dead.clone(), 0)]);
    let first = bucket(header(), &[(dead.clone(), 0b01), (living.clone(), 0b01)]);
    let last = bucket(header(), &[(living.clone(), 0b01), (dead.clone(), 0b10)]);
    for octets in [alone, of_none, first, last] {
        assert_eq!(find(&octets, A, &device(1)), content(&dead));
    }
    let twice = bucket(header(), &[(living.clone(), 0b01), (living, 0b11)]);
    assert_eq!(find(&twice, A, &device(1)), Err(Corrupt));
}

#[test]
fn a_reader_is_told_why_there_is_nothing() {
    let empty = |lost, full, generations| {
        let header = Header {
            lost,
            full,
            generations,
            ..Header::default()
        };
        bucket(header, &[])
    };
    for (octets, generation, wanted) in [
        (empty(0b01, 0b01, [A, B]), A, Found::Lost),
        (empty(0b01, 0b01, [A, B]), B, Found::Nothing),
        (empty(0b10, 0b01, [A, B]), A, Found::Full),
        (empty(0b01, 0b10, [A, B]), B, Found::Full),
        (empty(0, 0, [A, B]), A, Found::Nothing),
        (empty(0, 0, [A, B]), 8, Found::NothingButYounger),
        (empty(0, 0, [B, A]), 6, Found::NothingButYounger),
        (empty(0, 0, [A, B]), 10, Found::Nothing),
        (empty(0, 0, [0, 0]), A, Found::Nothing),
        (empty(0, 0, [0, 0]), 0, Found::Nothing),
    ] {
        assert_eq!(find(&octets, generation, &device(1)), Ok(wanted));
    }
}

#[test]
fn a_header_is_read_as_it_is_written_and_no_other_is_one() {
    for lost in 0..=0b11 {
        for full in 0..=0b11 {
            let header = Header {
                lost,
                full,
                term: 0x0102_0304,
                generations: [A, 0],
                position: 0x0102_0304_0506_0708,
            };
            let octets = bucket(header, &[]);
            assert_eq!(octets.len(), HEADER_OCTETS);
            assert_eq!(Header::read(&mut Reader::new(&octets)), Ok(header));
        }
    }
    let mut version = bucket(header(), &[]);
    version[0] += 1;
    let mut flags = bucket(header(), &[]);
    flags[1] = 0b1_0000;
    let twice = Header {
        generations: [A, A],
        ..Header::default()
    };
    for octets in [version, flags, bucket(twice, &[])] {
        assert_eq!(Header::read(&mut Reader::new(&octets)), Err(Corrupt));
        assert_eq!(find(&octets, A, &device(1)), Err(Corrupt));
    }
}

#[test]
fn a_no_that_is_over_is_swept_and_one_that_holds_is_not() {
    let octets = bucket(
        header(),
        &[
            (no_device(1, 0), 0b01),
            (no_device(2, 1), 0b01),
            (active(3, 1), 0b01),
        ],
    );
    let merged = merge(Some(&octets), &target(A), Take::All { room: 0 }, &[]).unwrap();
    let left = records(&merged.value.unwrap());
    assert_eq!(left, [line(2, 0b01, 1), line(3, 0b01, 1)]);
}

#[test]
fn what_is_revoked_is_held_for_every_history_and_counted_once_for_each() {
    let merge_into = |octets: &[u8], new: NewRecord| {
        let take = Take::All { room: 10 };
        let merged = merge(Some(octets), &target(A), take, &[new]).unwrap();
        let octets = merged.value.unwrap_or_else(|| octets.to_vec());
        (records(&octets), merged.added)
    };
    let of_b = bucket(header(), &[(revoked(1, 5), 0b10)]);
    // The other history's revision says nothing about this one's.
    let said = merge_into(&of_b, revoked(1, 8));
    assert_eq!(said, (vec![line(1, 0b11, 5)], 1));
    let said = merge_into(&of_b, active(1, 8));
    assert_eq!(said, (vec![line(1, 0b11, 5)], 1));

    let of_both = bucket(header(), &[(revoked(1, 5), 0b11)]);
    for (new, revision) in [
        (revoked(1, 6), 6),
        (revoked(1, 5), 5),
        (revoked(1, 4), 5),
        (active(1, 6), 5),
    ] {
        assert_eq!(
            merge_into(&of_both, new),
            (vec![line(1, 0b11, revision)], 0)
        );
    }

    // No state of this layout, and yet no second one of a device.
    let beside = bucket(header(), &[(revoked(1, 5), 0b01), (active(1, 4), 0b01)]);
    let said = merge_into(&beside, revoked(1, 6));
    assert_eq!(said, (vec![line(1, 0b01, 6)], 0));

    let living = bucket(header(), &[(active(1, 4), 0b01), (active(1, 9), 0b10)]);
    let said = merge_into(&living, revoked(1, 6));
    assert_eq!(said, (vec![line(1, 0b11, 6)], 0));
    let elsewhere = bucket(header(), &[(active(1, 9), 0b10)]);
    let said = merge_into(&elsewhere, revoked(1, 6));
    assert_eq!(said, (vec![line(1, 0b11, 6)], 1));
}

#[test]
fn a_word_on_what_is_revoked_counts_only_if_it_is_later() {
    let octets = bucket(header(), &[(revoked(1, 5), 0b01)]);
    let mut other = binding(1, BindingState::Revoked, 5);
    other.class = Some("cgm".parse().unwrap());
    for (revision, taken) in [(5, false), (6, true)] {
        other.revision = revision;
        let new = NewRecord::binding(&other);
        let take = Take::All { room: 1 };
        let merged = merge(Some(&octets), &target(A), take, core::slice::from_ref(&new)).unwrap();
        assert_eq!(merged.value.is_some(), taken);
        let now = merged.value.unwrap_or_else(|| octets.clone());
        let wanted = if taken { new } else { revoked(1, 5) };
        assert_eq!(find(&now, A, &device(1)), content(&wanted));
    }
}

#[test]
fn a_bucket_takes_a_device_up_to_its_last_octet() {
    let new = active(1, 5);
    let length = new.as_raw().length();
    for (octets, fits) in [
        (MAX_OCTETS - length, true),
        (MAX_OCTETS - length + 1, false),
    ] {
        let mut output = Output {
            octets: vec![0; octets],
            bit: 0b01,
            take: Take::All { room: 1 },
            is_full: false,
            added: 0,
            left_out: 0,
        };
        assert_eq!(output.has_room_for(new.as_raw()), fits);
        assert_eq!((output.is_full, output.left_out), (!fits, u32::from(!fits)));
    }
}

fn inserted(octets: &[u8], to: &Target, limit: usize, new: &NewRecord) -> Option<Vec<u8>> {
    match insert(Some(octets), to, limit, 10, new).unwrap() {
        Inserted::Value(Some(value)) => Some(value),
        Inserted::Value(None) | Inserted::NoRoom => None,
        Inserted::Overtaken => panic!("no change has been seen"),
    }
}

#[test]
fn an_answer_is_kept_beside_what_lives_and_what_is_revoked() {
    let octets = bucket(
        header(),
        &[
            (active(1, 1), 0b01),
            (revoked(2, 2), 0b01),
            (active(3, 3), 0b11),
            (no_device(4, 0), 0b10),
            (no_device(5, 1), 0b10),
        ],
    );
    // A is in use no longer.
    let to = Target {
        live: [B, 0],
        ..target(B)
    };
    let kept = inserted(&octets, &to, 10, &active(6, 6)).unwrap();
    let left = [
        line(2, 0, 2),
        line(3, 0b10, 3),
        line(5, 0b10, 1),
        line(6, 0b10, 6),
    ];
    assert_eq!(records(&kept), left);
}

#[test]
fn an_answer_about_what_is_here_takes_no_place() {
    let living = bucket(header(), &[(active(1, 1), 0b01), (active(2, 2), 0b01)]);
    let kept = inserted(&living, &target(A), 1, &active(1, 3)).unwrap();
    assert_eq!(records(&kept), [line(2, 0b01, 2), line(1, 0b01, 3)]);
    let dead = bucket(header(), &[(revoked(1, 1), 0b01), (active(2, 2), 0b01)]);
    let kept = inserted(&dead, &target(A), 1, &revoked(1, 3)).unwrap();
    assert_eq!(records(&kept), [line(2, 0b01, 2), line(1, 0b01, 3)]);
}

#[test]
fn an_answer_takes_the_place_of_who_may_go() {
    let full = bucket(
        header(),
        &[
            (revoked(1, 1), 0b01),
            (active(2, 2), 0b01),
            (active(3, 3), 0b01),
        ],
    );
    // The oldest that lives goes, but not for a "no such device", and never what is revoked.
    let kept = inserted(&full, &target(A), 2, &active(4, 4)).unwrap();
    let left = [line(1, 0b01, 1), line(3, 0b01, 3), line(4, 0b01, 4)];
    assert_eq!(records(&kept), left);
    assert_eq!(inserted(&full, &target(A), 2, &no_device(4, 1)), None);

    let with_no = bucket(header(), &[(active(2, 2), 0b01), (no_device(3, 1), 0b01)]);
    for new in [active(4, 1), no_device(4, 1)] {
        let kept = inserted(&with_no, &target(A), 2, &new).unwrap();
        assert_eq!(records(&kept), [line(2, 0b01, 2), line(4, 0b01, 1)]);
    }
}

#[test]
fn an_answer_that_the_octets_leave_no_room_for_is_not_kept() {
    let mut held = Vec::new();
    let mut octets = 0;
    for n in 0.. {
        let new = active(1_000 + n, 1);
        octets += new.as_raw().length();
        if octets > MAX_OCTETS {
            break;
        }
        held.push((new, 0b01));
    }
    let full = bucket(header(), &held);
    assert!(full.len() > MAX_OCTETS);
    let said = insert(Some(&full), &target(A), usize::MAX, 10, &active(1, 1));
    assert_eq!(said, Ok(Inserted::NoRoom));
}
