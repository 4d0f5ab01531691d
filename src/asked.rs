//! What is a decision about? A request with the facts that the host gave for it, kept for as long
//! as it may have to be decided again.

use std::cell::OnceCell;
use std::rc::Rc;

use medbind_core::decision::{AccountToken, Facts, Peer, Tokens};
use medbind_core::deny::DenyReason;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use crate::host::Host;
use crate::lookup::Behalf;
use crate::request::Request;

/// A request and who asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// The peer of its session.
    pub peer: Rc<Peer>,
    /// The verified token, if any.
    pub token: ReadToken,
    /// How often the registry was asked for it.
    pub lookups: u8,
}

impl Asked {
    /// On whose behalf the registry is asked about this device.
    pub fn behalf(&self, device: &DeviceId) -> Behalf {
        match &*self.peer {
            Peer::Verified(peer) if peer.device() == device => Behalf::Device,
            Peer::Verified(_) | Peer::Refused(_) | Peer::None => Behalf::Account,
        }
    }

    /// As `core` takes it, with the token as far as it has been read.
    pub fn facts(&self) -> Facts<'_> {
        self.facts_with(&self.token)
    }

    /// As `core` takes it, with the token from somewhere else.
    pub fn facts_with<'a>(&'a self, tokens: &'a dyn Tokens) -> Facts<'a> {
        Facts {
            peer: &self.peer,
            tokens,
            method: &self.request.method,
            path: &self.request.path,
        }
    }
}

/// The token of a request, as far as it has been read.
///
/// One that has not counts as none. So it is read when the request arrives, or never: a request
/// that was let in as a device's own is not an account's later, since a permit for another
/// principal than the first ends it.
#[derive(Clone, Debug, Default)]
pub struct ReadToken(OnceCell<Result<Option<AccountToken>, DenyReason>>);

impl Tokens for ReadToken {
    fn verified(&self) -> Result<Option<&AccountToken>, DenyReason> {
        match self.0.get() {
            Some(Ok(token)) => Ok(token.as_ref()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Ok(None),
        }
    }
}

/// The token of the request whose callback runs, read when it is first asked for.
#[derive(Debug)]
pub struct ArrivingToken<'a, H> {
    host: &'a H,
    /// Where `jwt_authn` puts the token's payload.
    metadata: &'a str,
    read: &'a ReadToken,
}

impl<'a, H: Host> ArrivingToken<'a, H> {
    /// Of the request of the effective context; what is read is kept in `read`.
    pub const fn new(host: &'a H, metadata: &'a str, read: &'a ReadToken) -> Self {
        Self {
            host,
            metadata,
            read,
        }
    }

    /// Reads it, whether or not a rule asks for it.
    pub fn read(&self) {
        self.read.0.get_or_init(|| self.ask_host());
    }

    /// Issuer, subject and end, as Envoy's `jwt_authn` has verified them.
    fn ask_host(&self) -> Result<Option<AccountToken>, DenyReason> {
        let claim = |name: &str| {
            let path = [
                "metadata",
                "filter_metadata",
                "envoy.filters.http.jwt_authn",
                self.metadata,
                name,
            ];
            self.host
                .property(&path)
                .map_err(|_| DenyReason::Internal("the verified token cannot be read"))
        };
        let text = |name| claim(name).map(|value| value.and_then(|v| String::from_utf8(v).ok()));
        let Some(issuer) = text("iss")? else {
            return Ok(None);
        };
        let Some(subject) = text("sub")? else {
            return Ok(None);
        };
        let expires_at = match claim("exp")? {
            None => None,
            // Fail closed: a token whose end cannot be read might have ended.
            Some(number) => Some(
                moment(&number)
                    .ok_or(DenyReason::Internal("the verified token's end is no time"))?,
            ),
        };
        Ok(Some(AccountToken {
            issuer,
            subject,
            expires_at,
        }))
    }
}

/// A number of the token's payload, which the host gives as a double, little-endian.
fn moment(octets: &[u8]) -> Option<Timestamp> {
    let octets = <[u8; 8]>::try_from(octets).ok()?;
    Timestamp::from_numeric_date(f64::from_le_bytes(octets))
}

impl<H: Host> Tokens for ArrivingToken<'_, H> {
    fn verified(&self) -> Result<Option<&AccountToken>, DenyReason> {
        self.read();
        self.read.verified()
    }
}
