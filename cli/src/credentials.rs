//! Who is who in the infrastructure? Certificates for servers, edges and operators.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use medbind_core::time::Timestamp;
use medbind_registry::pki::{
    CERTIFICATE_FILE, CertificateAuthority, CertificateFacts, Credentials, Purpose,
};
use medbind_registry::role::{Name, Peer, Role};
use serde_json::json;
use x509_cert::der::{DecodePem as _, Encode as _};

use crate::args::{CaIssue, Global};
use crate::ca;
use crate::failure::{Failure, Outcome};
use crate::output;

/// The infrastructure CA of a registry's data directory.
pub fn infrastructure(dir: &Path) -> Result<CertificateAuthority, Failure> {
    CertificateAuthority::load(dir).map_err(|error| {
        Failure::usage(error).next(
            "name the infrastructure CA's directory, with cert.pem and key.pem: `medbind serve` \
             made it, DATA_DIR/infra-ca",
        )
    })
}

/// How long a certificate of the infrastructure is valid, unless it is said otherwise.
pub const VALIDITY: &str = "825d";

/// Signs one for `validity`, which ends no later than the CA itself.
pub fn issue(
    authority: &CertificateAuthority,
    purpose: &Purpose,
    validity: &str,
) -> Result<Credentials, Failure> {
    let now = jiff::Timestamp::now();
    let (_, end) = ca::validity(validity, now)?;
    let ca = CertificateFacts::from_pem(authority.certificate_pem()).map_err(Failure::usage)?;
    if end > ca.not_after.unix_seconds() {
        return Err(Failure::usage(format_args!(
            "the certificate would outlive its CA, which is {}",
            ca::end_in_words(ca.not_after.unix_seconds())
        ))
        .next("choose a shorter --validity"));
    }
    let seconds = u64::try_from(end.saturating_sub(now.as_second())).unwrap_or(0);
    authority
        .issue(
            purpose,
            Timestamp::from_unix_seconds(now.as_second()),
            Duration::from_secs(seconds),
        )
        .map_err(Failure::usage)
}

/// `medbind ca issue`.
pub fn ca_issue(args: &CaIssue, global: &Global) -> Outcome {
    let authority = infrastructure(&args.ca)?;
    let purpose = if args.renew {
        purpose_of(&args.dir)?
    } else {
        purpose(args)?
    };
    let credentials = issue(&authority, &purpose, &args.validity)?;
    if args.renew {
        credentials.replace(&args.dir)
    } else {
        credentials.save(&args.dir)
    }
    .map_err(Failure::refused)?;
    let facts =
        CertificateFacts::from_pem(&credentials.certificate_pem).map_err(Failure::refused)?;
    let whom = match &purpose {
        Purpose::Server(names) => format!("server {}", names.join(", ")),
        Purpose::Client(role) => role.to_string(),
    };
    if global.json {
        output::json(&json!({
            "directory": args.dir.display().to_string(),
            "for": whom,
            "not_after": facts.not_after.to_string(),
            "renewed": args.renew,
        }));
    } else {
        let (dim, dir, until) = (output::DIM, args.dir.display(), facts.not_after);
        output::line(&if args.renew {
            format!(
                "{whom}: new cert.pem and key.pem in {dir}, valid until {until}\n\
                 {dim}next: start what uses it again{dim:#}"
            )
        } else {
            format!("{whom}: cert.pem, key.pem and ca.pem in {dir}, valid until {until}")
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn purpose(args: &CaIssue) -> Result<Purpose, Failure> {
    let role = |option: &str, name: &str, role: fn(Name) -> Role| {
        name.parse()
            .map(|name| Purpose::Client(role(name)))
            .map_err(|error| Failure::usage(format_args!("{option} {name:?}: {error}")))
    };
    match (&args.edge, &args.operator) {
        (Some(name), _) => role("--edge", name, Role::Edge),
        (None, Some(name)) => role("--operator", name, Role::Operator),
        (None, None) => Ok(Purpose::Server(args.servers.clone())),
    }
}

/// For whom the certificate in `dir` was made.
fn purpose_of(dir: &Path) -> Result<Purpose, Failure> {
    let path = dir.join(CERTIFICATE_FILE);
    let pem = std::fs::read_to_string(&path).map_err(|error| {
        Failure::unreadable(&path, &error)
            .next("--renew is for a directory that holds a certificate; leave it out for a new one")
    })?;
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{} cannot be renewed: {why}", path.display()))
    };
    let certificate = x509_cert::Certificate::from_pem(pem.as_bytes()).map_err(|e| wrong(&e))?;
    let der = certificate.to_der().map_err(|e| wrong(&e))?;
    let peer = Peer::from_certificate(&der).map_err(|e| wrong(&e))?;
    match peer.role {
        Role::None => {
            let facts = CertificateFacts::from_pem(&pem).map_err(|e| wrong(&e))?;
            if facts.server_names.is_empty() {
                return Err(wrong(&"it names neither a server nor a role"));
            }
            Ok(Purpose::Server(facts.server_names))
        }
        Role::Edge(_) | Role::Operator(_) => Ok(Purpose::Client(peer.role)),
    }
}
