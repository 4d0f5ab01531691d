//! What is a decision about? A request with the facts that the host gave for it, kept for as long
//! as it may have to be decided again.

use std::rc::Rc;

use medbind_core::decision::{AccountToken, Facts, Peer};

use crate::request::Request;

/// A request and who asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// The peer of its session.
    pub peer: Rc<Peer>,
    /// The verified token, if any.
    pub token: Option<AccountToken>,
    /// How often the registry was asked for it.
    pub lookups: u8,
}

impl Asked {
    /// As `core` takes it.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            peer: &self.peer,
            token: self.token.as_ref(),
            method: &self.request.method,
            path: &self.request.path,
        }
    }
}
