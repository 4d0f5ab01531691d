//! What is a scenario? One row of the table.

use std::borrow::Cow;

use medbind_core::deny::DenyCode;

use crate::certificate::Spec;
use crate::token::{Algorithm, Token};

/// Where a scenario happens: which Envoy, and what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The whole fleet is known, and the registry is there.
    Fleet,
    /// No synchroniser has ever run.
    NoSynchroniser,
    /// The registry has been silent for longer than `max_stale`.
    Stale,
    /// Bindings are asked for on demand, of a registry that does not answer.
    OnDemand,
    /// The whole fleet is known, from a registry that also says what nobody here understands.
    Script,
}

/// Which listener is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// As it is shipped.
    Edge,
    /// Takes every certificate (`ACCEPT_UNTRUSTED`) and every path as it comes: the guard is alone.
    Open,
    /// In shadow mode, and open.
    Shadow,
    /// Its guard looks for the certificate where this Envoy does not put it.
    Misread,
    /// Its guard reads identities from URIs and DNS names, and takes P-256 keys and RSA keys of
    /// 3072 bits alone; open.
    Picky,
}

impl Listener {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Edge,
        Self::Open,
        Self::Shadow,
        Self::Misread,
        Self::Picky,
    ];

    /// Its name in the bootstrap.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Open => "open",
            Self::Shadow => "shadow",
            Self::Misread => "misread",
            Self::Picky => "picky",
        }
    }

    /// The label of its decisions' counter.
    pub const fn mode(self) -> &'static str {
        match self {
            Self::Edge | Self::Open | Self::Misread | Self::Picky => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// Who signed a certificate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The CA of the namespace `acme`.
    Acme,
    /// The CA that takes over from it.
    AcmeNext,
    /// The CA of the namespace `other`.
    Other,
    /// A CA that has the first one's name, and is not configured.
    Namesake,
    /// Somebody who writes the first one's name and key identifier, and has another key.
    Forger,
}

/// Who calls?
#[derive(Clone)]
pub enum Peer {
    /// Somebody without a certificate.
    Nobody,
    /// Somebody with this one.
    Shows(Signer, Box<Spec>),
}

/// Which protocol is spoken?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// HTTP/1.1, written octet by octet: nothing between the row and the wire mends it.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2, written frame by frame: a path that no library would send.
    Frames,
    /// gRPC over HTTP/2.
    Grpc,
}

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Served; these are all the fields of medbind that the upstream sees, headers and trailers.
    Permit(Vec<(String, String)>),
    /// Refused by the guard with this code.
    Deny(DenyCode),
    /// Refused by whoever comes first, in whatever words; the upstream sees nothing.
    NotServed,
    /// Refused by Envoy, before the guard; the upstream sees nothing.
    NotByEnvoy,
    /// No session comes about.
    NoHandshake,
    /// Let pass by a guard in shadow mode, untagged; this is what it would have said.
    Watched(Option<DenyCode>),
}

/// One scenario.
#[derive(Clone)]
pub struct Scenario {
    /// A sentence.
    pub name: Cow<'static, str>,
    /// Where it happens.
    pub place: Place,
    /// Which listener is called.
    pub listener: Listener,
    /// Who calls.
    pub peer: Peer,
    /// The protocol.
    pub face: Face,
    /// The method.
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    /// Header fields.
    pub headers: Vec<(&'static str, &'static str)>,
    /// Trailer fields.
    pub trailers: Vec<(&'static str, &'static str)>,
    /// A certificate that it claims in `x-forwarded-client-cert`: a good one of this device.
    pub claims: Option<&'static str>,
    /// A token that claims to be of the sign-in service.
    pub token: Option<Token>,
    /// What is to happen.
    pub expect: Expect,
    /// Fields that must not reach the upstream, besides medbind's own.
    pub hidden: Vec<&'static str>,
    /// Why a real Envoy never gets that far, where that is so: then the fake host alone runs it.
    pub native_alone: Option<&'static str>,
    /// Belongs to the short table, which runs on every line of Envoy.
    pub short: bool,
}

/// Begins a row: the device with this serial posts a reading of its own at the shipped listener,
/// and is served as a `cgm` of account `acc-1`.
pub fn scenario(name: impl Into<Cow<'static, str>>, serial: &str) -> Scenario {
    Scenario {
        name: name.into(),
        place: Place::Fleet,
        listener: Listener::Edge,
        peer: Peer::Shows(Signer::Acme, Box::new(Spec::device(serial))),
        face: Face::Http1,
        method: "POST",
        path: format!("/v1/devices/acme:{serial}/readings"),
        headers: Vec::new(),
        trailers: Vec::new(),
        claims: None,
        token: None,
        expect: Expect::Permit(tags(&format!("acme:{serial}"), "device")),
        hidden: Vec::new(),
        native_alone: None,
        short: false,
    }
}

/// What the upstream sees of a permitted device of account `acc-1`.
pub fn tags(device: &str, principal: &str) -> Vec<(String, String)> {
    [
        ("x-medbind-principal", principal),
        ("x-medbind-device", device),
        ("x-medbind-epoch", "1"),
        ("x-medbind-account", "acc-1"),
        ("x-medbind-class", "cgm"),
        ("x-medbind-traffic", "phi"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Scenario {
    /// At another place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// At another listener.
    #[must_use]
    pub fn on(mut self, listener: Listener) -> Self {
        self.listener = listener;
        self
    }

    /// By somebody without a certificate.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.peer = Peer::Nobody;
        self
    }

    /// With a certificate that somebody else signed.
    #[must_use]
    pub fn signed_by(mut self, signer: Signer) -> Self {
        if let Peer::Shows(known, _) = &mut self.peer {
            *known = signer;
        }
        self
    }

    /// With a certificate that is another one in this.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        if let Peer::Shows(_, spec) = &mut self.peer {
            change(spec);
        }
        self
    }

    /// Over another protocol.
    #[must_use]
    pub fn over(mut self, face: Face) -> Self {
        self.face = face;
        self
    }

    /// Asks for something else.
    #[must_use]
    pub fn asks(mut self, method: &'static str, path: impl Into<String>) -> Self {
        self.method = method;
        self.path = path.into();
        self
    }

    /// Sends a header field.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends a trailer field.
    #[must_use]
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.push((name, value));
        self
    }

    /// Sends another device's real certificate in `x-forwarded-client-cert`.
    #[must_use]
    pub fn claims(mut self, serial: &'static str) -> Self {
        self.claims = Some(serial);
        self
    }

    /// Sends a good token of this subject.
    #[must_use]
    pub fn token(self, subject: &'static str) -> Self {
        self.shows(Token {
            subject,
            algorithm: Algorithm::EdDsa,
            flaw: None,
        })
    }

    /// Sends this token.
    #[must_use]
    pub fn shows(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Is served with these fields.
    #[must_use]
    pub fn permit(mut self, fields: Vec<(String, String)>) -> Self {
        self.expect = Expect::Permit(fields);
        self
    }

    /// Is served, as the device with this identity.
    #[must_use]
    pub fn permit_as(self, device: &str) -> Self {
        self.permit(tags(device, "device"))
    }

    /// Is refused with this code.
    #[must_use]
    pub fn deny(self, code: DenyCode) -> Self {
        self.expect(Expect::Deny(code))
    }

    /// Has this outcome.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// The upstream must not see this field.
    #[must_use]
    pub fn hides(mut self, name: &'static str) -> Self {
        self.hidden.push(name);
        self
    }

    /// Runs over the fake host alone, and why.
    #[must_use]
    pub fn natively(mut self, reason: &'static str) -> Self {
        self.native_alone = Some(reason);
        self
    }

    /// Runs on every line of Envoy.
    #[must_use]
    pub fn short(mut self) -> Self {
        self.short = true;
        self
    }

    /// Whether the filter alone can be asked: what Envoy refuses before it cannot.
    pub fn concerns_the_filter(&self) -> bool {
        !matches!(self.expect, Expect::NoHandshake | Expect::NotByEnvoy)
    }
}
