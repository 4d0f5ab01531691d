//! Who is who in the infrastructure? Certificates for servers, edges and operators.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use medbind_core::time::Timestamp;
use medbind_registry::pki::{
    CERTIFICATE_FILE, CertificateAuthority, CertificateFacts, Credentials, PkiError, Purpose,
};
use medbind_registry::role::{Name, Peer, Role};
use serde_json::json;
use x509_cert::der::{DecodePem as _, Encode as _};

use crate::args::{CaIssue, CaRenew, CaShow, Global};
use crate::ca;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::output;

/// The infrastructure CA of a registry's data directory.
pub fn infrastructure(dir: &Path) -> Result<CertificateAuthority, Failure> {
    let next = "name the infrastructure CA's directory, with cert.pem and key.pem: `medbind serve` \
                made it, DATA_DIR/infra-ca";
    let path = dir.display();
    if ca::is_device_ca(dir) {
        // What it signed for an operator or a server, everybody would refuse.
        return Err(Failure::usage(format_args!(
            "{path} is a device CA, and signs nothing of the infrastructure"
        ))
        .next(next));
    }
    CertificateAuthority::load(dir).map_err(|error| {
        match &error {
            PkiError::File { .. } => Failure::usage(error),
            _ => Failure::usage(format_args!("{path}: {error}")),
        }
        .next(next)
    })
}

/// How long a certificate of the infrastructure is valid, unless it is said otherwise.
pub const VALIDITY: &str = "825d";

/// Signs one for `validity`, or until the CA ends, where that is sooner.
pub fn issue(
    authority: &CertificateAuthority,
    purpose: &Purpose,
    validity: &str,
) -> Result<Credentials, Failure> {
    let now = jiff::Timestamp::now();
    let (_, end) = ca::validity(validity, now)?;
    let seconds = u64::try_from(end.saturating_sub(now.as_second())).unwrap_or(0);
    authority
        .issue(
            purpose,
            Timestamp::from_unix_seconds(now.as_second()),
            Duration::from_secs(seconds),
        )
        .map_err(Failure::usage)
}

/// What there is to say of a certificate that ends with its CA.
pub fn shortened(credentials: &Credentials, ca: &Path) -> Option<String> {
    credentials.shortened.then(|| {
        format!(
            "it ends at {}, when its CA ends, and not later as was asked for: medbind ca renew {}",
            credentials.not_after,
            ca.display()
        )
    })
}

/// What there is to say of a CA that is not valid yet.
pub fn not_begun(authority: &CertificateAuthority, ca: &Path) -> Option<String> {
    let now = jiff::Timestamp::now().as_second();
    let begin = authority.not_before();
    (now < begin.unix_seconds()).then(|| {
        format!(
            "{ca} is not valid before {begin}, and nobody has to take what it signs until then: set \
             this machine's clock, or, where it is right: medbind ca renew {ca}",
            ca = ca.display()
        )
    })
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
    let mut warnings = if args.renew {
        credentials.replace(&args.dir)
    } else {
        let made_by_root = |()| files::made_by_root(&args.dir).into_iter().collect();
        credentials.save(&args.dir).map(made_by_root)
    }
    .map_err(Failure::refused)?;
    let whom = whom(&purpose);
    warnings.extend(shortened(&credentials, &args.ca));
    warnings.extend(not_begun(&authority, &args.ca));
    output::warnings(&warnings);
    if global.json {
        output::json(&json!({
            "directory": args.dir.display().to_string(),
            "for": whom,
            "not_after": credentials.not_after.to_string(),
            "shortened": credentials.shortened,
            "renewed": args.renew,
        }));
    } else {
        let (dim, dir, until) = (output::DIM, args.dir.display(), credentials.not_after);
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

fn whom(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Server(names) => format!("server {}", names.join(", ")),
        Purpose::Client(role) => role.to_string(),
    }
}

/// What is done about the end of a device CA.
const ROLL_OVER: &str = "a device CA is rolled over: docs/operating.md";

/// `medbind ca renew`.
pub fn ca_renew(args: &CaRenew, global: &Global) -> Outcome {
    if ca::is_device_ca(&args.dir) {
        return Err(Failure::usage(format_args!(
            "{} is a device CA, and `ca renew` is for the infrastructure's",
            args.dir.display()
        ))
        .next(ROLL_OVER));
    }
    let authority = infrastructure(&args.dir)?;
    let now = Timestamp::from_unix_seconds(jiff::Timestamp::now().as_second());
    let renewed = authority.renewed(now).map_err(|error| {
        let failure = Failure::usage(format_args!("{}: {error}", args.dir.display()));
        match error {
            PkiError::NotOurs => failure.next(ROLL_OVER),
            _ => failure,
        }
    })?;
    output::warnings(&renewed.replace(&args.dir).map_err(Failure::refused)?);
    let until = renewed.not_after();
    if global.json {
        output::json(&json!({
            "directory": args.dir.display().to_string(),
            "not_after": until.to_string(),
        }));
    } else {
        let (dim, dir) = (output::DIM, args.dir.display());
        output::text(&format!(
            "new cert.pem in {dir}, for the same key, valid until {until}\n\
             {dim}next: before {}, renew what it has signed, which brings the new certificate along: \
             medbind ca issue DIR --ca {dir} --renew{dim:#}\n",
            authority.not_after()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// `medbind ca show`.
pub fn ca_show(args: &CaShow, global: &Global) -> Outcome {
    let now = jiff::Timestamp::now();
    let limit = match &args.ends_within {
        Some(span) => Some(ca::span_from("--ends-within", span, now)?),
        None => None,
    };
    let mut ending = false;
    let mut rows = Vec::new();
    for path in &args.paths {
        let file = if path.is_dir() {
            path.join(CERTIFICATE_FILE)
        } else {
            path.clone()
        };
        let pem = std::fs::read_to_string(&file).map_err(|e| Failure::unreadable(&file, &e))?;
        let wrong =
            |e: &dyn std::fmt::Display| Failure::usage(format_args!("{}: {e}", file.display()));
        let facts = CertificateFacts::from_pem(&pem).map_err(|e| wrong(&e))?;
        let certificate =
            x509_cert::Certificate::from_pem(pem.as_bytes()).map_err(|e| wrong(&e))?;
        let der = certificate.to_der().map_err(|e| wrong(&e))?;
        let role = Peer::from_certificate(&der).map_or(Role::None, |peer| peer.role);
        let whom = match role {
            Role::Edge(_) | Role::Operator(_) => role.to_string(),
            Role::None if facts.server_names.is_empty() => {
                certificate.tbs_certificate().subject().to_string()
            }
            Role::None => whom(&Purpose::Server(facts.server_names)),
        };
        let end = facts.not_after.unix_seconds();
        let has_begun = facts.not_before.unix_seconds() <= now.as_second();
        ending |= limit.is_some_and(|limit| end <= limit || !has_begun);
        if global.json {
            output::json(&json!({
                "path": file.display().to_string(),
                "for": whom,
                "not_before": facts.not_before.to_string(),
                "not_after": ca::end_of(end),
            }));
        } else {
            rows.push(vec![
                file.display().to_string(),
                whom,
                if has_begun {
                    in_days(end, now.as_second())
                } else {
                    format!("not valid before {}", facts.not_before)
                },
            ]);
        }
    }
    if !global.json {
        output::text(&output::table(&["CERTIFICATE", "FOR", "ENDS"], &rows));
    }
    Ok(ExitCode::from(u8::from(ending)))
}

/// When a certificate ends, and in how many days that is.
fn in_days(end: i64, now: i64) -> String {
    const DAY: i64 = 86_400;
    match ca::end_of(end) {
        None => "never".to_owned(),
        Some(at) if end <= now => format!("{at}, it has ended"),
        Some(at) => match end.saturating_sub(now) / DAY {
            0 => format!("{at}, within a day"),
            1 => format!("{at}, in 1 day"),
            days => format!("{at}, in {days} days"),
        },
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
