//! stub
use crate::args::{Check, Global};
use crate::failure::Outcome;
pub fn check(_: &Check, _: &Global) -> Outcome {
    todo()
}
fn todo() -> Outcome {
    Err(crate::failure::Failure::usage("not written yet"))
}
