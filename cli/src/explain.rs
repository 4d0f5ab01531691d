//! stub
use crate::args::{Explain, Global};
use crate::failure::{Failure, Outcome};
pub async fn explain(_: &Explain, _: &Global) -> Outcome {
    Err(Failure::usage("not written yet"))
}
