//! The scenario table over the fake host: the same rows that run in a real Envoy.

use std::collections::BTreeSet;

use medbind_core::deny::DenyCode;
use medbind_integration::scenario::native::Runner;
use medbind_integration::scenario::row::{Expect, Scenario};
use medbind_integration::scenario::table::table;

#[test]
fn every_row_that_concerns_the_filter_holds_over_the_fake_host() {
    let mut runner = Runner::new().unwrap();
    let mut failures = Vec::new();
    let mut ran = 0;
    for row in table().iter().filter(|row| row.concerns_the_filter()) {
        ran += 1;
        if let Err(error) = runner.run(row) {
            failures.push(format!("{}: {error:#}", row.name));
        }
    }
    println!("{ran} scenarios over the fake host");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn codes(rows: &[Scenario]) -> BTreeSet<&'static str> {
    let denied = rows.iter().filter_map(|row| match &row.expect {
        Expect::Deny(code) => Some(code.as_str()),
        Expect::Permit(_)
        | Expect::NotServed
        | Expect::NotByEnvoy
        | Expect::NoHandshake
        | Expect::Watched(_) => None,
    });
    denied.collect()
}

/// Both runners run every row with a deny code but those that say why not.
#[test]
fn every_deny_code_has_a_row_in_both_runners() {
    let all = DenyCode::ALL.map(DenyCode::as_str).into();
    let mut rows = table();
    assert_eq!(codes(&rows), all);
    rows.retain(|row| row.native_alone.is_none());
    assert_eq!(codes(&rows), all, "in a real Envoy");
}

#[test]
fn no_two_rows_have_the_same_name() {
    let rows = table();
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len());
}
