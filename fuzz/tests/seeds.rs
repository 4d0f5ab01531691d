//! What libFuzzer begins with gets as far as it says: a target that refuses everything would find
//! nothing.

use medbind_fuzz::{Reached, TARGETS};

#[test]
fn every_seed_gets_as_far_as_it_says() {
    let mut others = Vec::new();
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for seed in seeds {
            let reached = (target.run)(&seed.octets);
            if reached != seed.reaches {
                others.push((target.name, seed.name, reached));
            }
        }
    }
    assert_eq!(others, []);
}

#[test]
fn every_target_begins_with_what_is_taken_and_what_is_refused() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        for reaches in [Reached::Taken, Reached::Refused] {
            let any = seeds.iter().any(|seed| seed.reaches == reaches);
            assert!(any, "{} {reaches:?}", target.name);
        }
        let mut names: Vec<_> = seeds.iter().map(|seed| &seed.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), seeds.len(), "{}: a name twice", target.name);
    }
}

#[test]
fn a_certificate_that_is_changed_anywhere_is_nobodys() {
    let target = TARGETS
        .into_iter()
        .find(|target| target.name == "certificate");
    let target = target.unwrap();
    let seeds = (target.seeds)();
    let seed = seeds.iter().find(|seed| seed.name == "device.der").unwrap();
    assert_eq!((target.run)(&seed.octets), Reached::Taken);
    for at in 0..seed.octets.len() {
        let mut octets = seed.octets.clone();
        octets[at] ^= 0x20;
        assert_eq!((target.run)(&octets), Reached::Refused, "octet {at}");
    }
}
