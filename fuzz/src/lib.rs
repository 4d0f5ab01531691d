//! What must hold of any input, whoever made it?
//!
//! Each target takes octets, and panics where something does not hold that medbind promises of
//! every input. libFuzzer looks for octets that make it panic (`cargo xtask fuzz`); the tests hold
//! each target against its seeds, which are the inputs that libFuzzer begins with.

pub mod certificate;
pub mod configuration;
pub mod feed;
pub mod path;
mod site;

/// How far an input got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It was refused, as it may be.
    Refused,
    /// It was taken: a permit, a configuration in force, a history that answers.
    Taken,
}

/// An input to begin with.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Its file's name.
    pub name: String,
    /// Its octets.
    pub octets: Vec<u8>,
    /// How far it gets.
    pub reaches: Reached,
}

impl Seed {
    fn new(name: impl Into<String>, octets: impl Into<Vec<u8>>, reaches: Reached) -> Self {
        Self {
            name: name.into(),
            octets: octets.into(),
            reaches,
        }
    }
}

/// One of the inputs that strangers, or mistakes, can shape.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: `fuzz-NAME` is the program that libFuzzer drives.
    pub name: &'static str,
    /// Holds the promises against one input.
    pub run: fn(&[u8]) -> Reached,
    /// What to begin with.
    pub seeds: fn() -> Vec<Seed>,
    /// Words that its inputs are made of.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [Target; 4] = [
    certificate::TARGET,
    configuration::TARGET,
    feed::TARGET,
    path::TARGET,
];
