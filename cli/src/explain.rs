//! Why does the guard decide as it does? The module's own code, run on one case.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use medbind_core::binding::{Binding, BindingState, Epoch, Pins};
use medbind_core::certificate::PeerCertificate;
use medbind_core::config::{GuardConfig, Mode, PluginConfig};
use medbind_core::decision::{
    AccountToken, Bindings, Decision, Facts, Lookup, Peer, decide_device, decide_traced,
};
use medbind_core::deny::{DenyCode, DenyReason, Unavailable};
use medbind_core::feed::{FeedRecord, LookupAnswer, Named, lookup_path};
use medbind_core::identity::DeviceId;
use medbind_core::peer::authenticate_traced;
use medbind_core::signature::RustVerifier;
use medbind_core::tag::tag_headers;
use medbind_core::time::Timestamp;
use medbind_core::trace::{Outcome as StepOutcome, TraceStep};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::args::{Explain, Global};
use crate::check::{self, Found};
use crate::client::Registry;
use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

/// `medbind explain`.
pub async fn explain(args: &Explain, global: &Global) -> Outcome {
    let guard = guard(&args.guard)?;
    let now = args
        .at
        .unwrap_or_else(|| Timestamp::from_unix_millis(jiff::Timestamp::now().as_millisecond()));
    let mut steps = Vec::new();
    let peer = peer(args, &guard, &mut steps)?;
    let token = token(args);
    let mut known = Known::read(args)?;

    let facts = args.path.as_ref().map(|path| Facts {
        peer: &peer,
        tokens: &token,
        method: &args.method,
        path,
    });
    let before = steps.len();
    let decision = loop {
        steps.truncate(before);
        let mut listener = |step| steps.push(step);
        let policy = &guard.policy;
        let decision = match &facts {
            Some(facts) => decide_traced(policy, facts, &mut known, now, &mut listener),
            None => decide_device(policy, &peer, &mut known, now, &mut listener),
        };
        // Which device is asked about is only known on the way: ask, then decide again.
        let Decision::AskRegistry(device) = decision else {
            break decision;
        };
        let lookup = ask(global, &device).await?;
        known.answers.insert(device, lookup);
    };

    let told = Told::new(&guard, &peer, &known, decision, steps, now);
    if global.json {
        output::json(&told.to_json());
    } else {
        output::text(&told.to_text());
    }
    Ok(ExitCode::from(u8::from(told.denied.is_some())))
}

/// The one guard of a file. Where there are several, the one that knows issuers: beside it, a
/// guard may stand before a listener for probes.
fn guard(path: &Path) -> Result<Box<GuardConfig>, Failure> {
    let text = check::read(path)?;
    let mut guards = check::configurations(path, &text)?;
    guards.retain(|one| one.role() != "sync");
    if guards.len() > 1 {
        let knows_issuers = |one: &Found| {
            let issuers = one.node.get("issuers");
            issuers.is_some_and(|issuers| !issuers.items().is_empty())
        };
        guards.retain(knows_issuers);
    }
    guards.dedup_by(|one, other| one.node.to_json() == other.node.to_json());
    let one = match guards.as_slice() {
        [one] => one,
        [] => {
            return Err(
                Failure::usage(format_args!("{} holds no guard", path.display()))
                    .next("name a file with a configuration whose role is http"),
            );
        }
        several => {
            let lines: Vec<String> = several
                .iter()
                .map(|one| one.node.line.to_string())
                .collect();
            return Err(Failure::usage(format_args!(
                "{} holds several guards, at the lines {}",
                path.display(),
                lines.join(", ")
            ))
            .next("write the one that is meant into a file of its own"));
        }
    };
    let next = format!("medbind check {}", path.display());
    match one.parse() {
        Ok(PluginConfig::Guard(guard)) => Ok(guard),
        Ok(PluginConfig::Sync(_)) => {
            Err(Failure::usage(format_args!("{} holds no guard", path.display())).next(next))
        }
        Err(problems) => {
            let problems = problems.join("\n  ");
            Err(Failure::usage(format_args!("{}, {problems}", path.display())).next(next))
        }
    }
}

/// Reads and verifies the certificate as the module does on its first sight.
fn peer(args: &Explain, guard: &GuardConfig, steps: &mut Vec<TraceStep>) -> Result<Peer, Failure> {
    let Some(path) = &args.certificate else {
        return Ok(Peer::None);
    };
    let pem = fs::read(path).map_err(|error| Failure::unreadable(path, &error))?;
    let certificate = match PeerCertificate::parse(&pem) {
        Ok(certificate) => certificate,
        Err(error) => {
            let reason = DenyReason::from(error);
            steps.push(TraceStep {
                step: "certificate",
                read: format!("{}, {} octets: {reason}", path.display(), pem.len()),
                outcome: StepOutcome::Refused,
            });
            return Ok(Peer::Refused(reason));
        }
    };
    steps.push(TraceStep {
        step: "certificate",
        read: format!(
            "subject {:?}, issuer {:?}, SHA-256 {}",
            certificate.subject_text(),
            certificate.issuer_text(),
            certificate.digest()
        ),
        outcome: StepOutcome::Passed,
    });
    let mut listener = |step| steps.push(step);
    let verified = authenticate_traced(
        &guard.issuers,
        &guard.key_policy,
        &certificate,
        &RustVerifier,
        &mut listener,
    );
    Ok(verified.map_or_else(Peer::Refused, Peer::Verified))
}

fn token(args: &Explain) -> Option<AccountToken> {
    Some(AccountToken {
        issuer: args.account_issuer.clone()?,
        subject: args.account_subject.clone()?,
        expires_at: None,
    })
}

/// What is known of bindings.
struct Known {
    /// From --bindings.
    records: HashMap<DeviceId, Arc<Binding>>,
    /// Whether the records are the whole registry.
    whole: bool,
    /// What the registry answered.
    answers: HashMap<DeviceId, Lookup>,
    /// How long ago the registry was heard.
    silent_for: Duration,
}

impl Bindings for Known {
    fn lookup(&mut self, device: &DeviceId, _now: Timestamp) -> Lookup {
        if let Some(answer) = self.answers.get(device) {
            return answer.clone();
        }
        match self.records.get(device) {
            Some(binding) => Lookup::Found(Arc::clone(binding)),
            None if self.whole => Lookup::Absent,
            None => Lookup::Pending,
        }
    }

    fn freshness(&mut self, _now: Timestamp) -> Result<Duration, Unavailable> {
        Ok(self.silent_for)
    }
}

impl Known {
    fn read(args: &Explain) -> Result<Self, Failure> {
        let mut known = Self {
            records: HashMap::new(),
            whole: args.bindings.is_some(),
            answers: HashMap::new(),
            silent_for: args.silent_for.unwrap_or_default(),
        };
        let Some(path) = &args.bindings else {
            return Ok(known);
        };
        let mut octets = Vec::new();
        let read = if path == Path::new("-") {
            std::io::stdin().lock().read_to_end(&mut octets)
        } else {
            fs::File::open(path).and_then(|mut file| file.read_to_end(&mut octets))
        };
        read.map_err(|error| Failure::unreadable(path, &error))?;
        for (index, line) in octets.split(|octet| *octet == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match FeedRecord::parse_line(line) {
                FeedRecord::Binding(binding) => known.keep(binding),
                FeedRecord::Unrecognised {
                    names: Named::Device(device),
                    revision,
                } => known.keep(unreadable(device, revision)),
                FeedRecord::Unrecognised {
                    names: Named::Other,
                    ..
                } => {}
                FeedRecord::Unrecognised {
                    names: Named::Unknown,
                    ..
                } => {
                    return Err(Failure::usage(format_args!(
                        "{}, line {}: no feed record",
                        path.display(),
                        index + 1
                    ))
                    .next("write one JSON object a line, as `medbind export` does"));
                }
            }
        }
        Ok(known)
    }

    /// The highest revision of a device counts; of equal ones the later line.
    fn keep(&mut self, binding: Binding) {
        let newer = self
            .records
            .get(&binding.device)
            .is_none_or(|kept| kept.revision <= binding.revision);
        if newer {
            self.records
                .insert(binding.device.clone(), Arc::new(binding));
        }
    }

    /// The binding of a device, as far as it was found.
    fn binding(&self, device: &DeviceId) -> Option<&Binding> {
        if let Some(Lookup::Found(binding)) = self.answers.get(device) {
            return Some(binding);
        }
        self.records.get(device).map(AsRef::as_ref)
    }
}

/// What stands for a record that names a device and cannot be read: it permits nothing.
fn unreadable(device: DeviceId, revision: Option<u64>) -> Binding {
    Binding {
        device,
        state: BindingState::Unrecognised,
        account: None,
        class: None,
        epoch: Epoch::FIRST,
        expires_at: None,
        pins: Pins::default(),
        revision: revision.unwrap_or(u64::MAX),
    }
}

/// Asks the registry about one device. A registry that does not answer is no deny: the case cannot
/// be explained, and the exit status says so.
async fn ask(global: &Global, device: &DeviceId) -> Result<Lookup, Failure> {
    if global.registry.is_none() {
        return Err(
            Failure::usage("the decision depends on a binding, and there is none to read")
                .next("add --bindings FILE (feed records), or --registry URL with --credentials"),
        );
    }
    let registry = Registry::new(global)?;
    // The edge's own question, so that an edge's credentials do as well as an operator's.
    let request = registry.request(Method::GET, &lookup_path(device));
    let asked = async {
        let response = registry.send(request).await?;
        let body = response.bytes().await;
        let body = body.map_err(|error| registry.failed(&error))?;
        LookupAnswer::parse(&body, device).map_err(|error| registry.unexpected(&error))
    };
    let answer = asked.await.map_err(Failure::into_usage)?;
    Ok(match answer.binding {
        Some(binding) => Lookup::Found(Arc::new(binding)),
        None => Lookup::Absent,
    })
}

/// The whole explanation.
struct Told {
    mode: Mode,
    at: Timestamp,
    denied: Option<DenyReason>,
    principal: Option<&'static str>,
    device: Option<DeviceId>,
    account: Option<String>,
    class: Option<String>,
    epoch: Option<u32>,
    rule: Option<(usize, String)>,
    headers: Vec<(String, String)>,
    steps: Vec<TraceStep>,
}

impl Told {
    fn new(
        guard: &GuardConfig,
        peer: &Peer,
        known: &Known,
        decision: Decision,
        steps: Vec<TraceStep>,
        at: Timestamp,
    ) -> Self {
        let rule = |index: Option<usize>| {
            let index = index?;
            let rule = guard.policy.rules().as_slice().get(index)?;
            Some((index, rule.pattern().as_str().to_owned()))
        };
        match decision {
            Decision::Permit(permit) => Self {
                mode: guard.mode,
                at,
                denied: None,
                principal: Some(permit.principal().as_str()),
                device: permit.device().cloned(),
                account: permit.account().map(ToString::to_string),
                class: permit.class().map(ToString::to_string),
                epoch: permit.epoch().map(Epoch::get),
                rule: rule(permit.rule_index()),
                headers: tag_headers(&permit)
                    .map(|(name, value)| (name.to_owned(), value.into_owned()))
                    .collect(),
                steps,
            },
            Decision::Deny(denial) => {
                let verified = match peer {
                    Peer::Verified(verified) => Some(verified.device()),
                    Peer::None | Peer::Refused(_) => None,
                };
                let device = denial.device.as_ref().or(verified).cloned();
                let binding = device.as_ref().and_then(|device| known.binding(device));
                let account = binding.and_then(|binding| binding.account.as_ref());
                let class = binding.and_then(|binding| binding.class.as_ref());
                Self {
                    mode: guard.mode,
                    at,
                    principal: None,
                    account: account.map(ToString::to_string),
                    class: class.map(ToString::to_string),
                    epoch: binding.map(|binding| binding.epoch.get()),
                    device,
                    rule: rule(denial.rule),
                    headers: Vec::new(),
                    denied: Some(denial.reason),
                    steps,
                }
            }
            // Fail closed: the loop above does not end with this.
            Decision::AskRegistry(device) => Self {
                mode: guard.mode,
                at,
                denied: Some(DenyReason::Internal("the registry was not asked")),
                principal: None,
                device: Some(device),
                account: None,
                class: None,
                epoch: None,
                rule: None,
                headers: Vec::new(),
                steps,
            },
        }
    }

    fn to_json(&self) -> Value {
        let headers: Map<String, Value> = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        let rule = self
            .rule
            .as_ref()
            .map(|(index, path)| json!({"index": index, "path": path}));
        let code = self.denied.as_ref().map(DenyReason::code);
        json!({
            "decision": if self.denied.is_none() { "permit" } else { "deny" },
            "code": code.map(DenyCode::as_str),
            "status": code.map_or(200, DenyCode::http_status),
            "grpc_status": code.map_or(0, DenyCode::grpc_status),
            "reason": self.denied.as_ref().map(ToString::to_string),
            "principal": self.principal,
            "device": self.device,
            "account": self.account,
            "class": self.class,
            "epoch": self.epoch,
            "rule": rule,
            "headers": headers,
            "mode": self.mode.as_str(),
            "at": self.at,
            "steps": self.steps,
        })
    }

    fn to_text(&self) -> String {
        let (bold, red, green, dim) = (output::BOLD, output::RED, output::GREEN, output::DIM);
        let mut text = match &self.denied {
            None => format!("{green}permit{green:#}"),
            Some(reason) => {
                let code = reason.code();
                format!(
                    "{red}deny{red:#} {bold}{code}{bold:#} (HTTP {}, gRPC {})\n  {reason}",
                    code.http_status(),
                    code.grpc_status()
                )
            }
        };
        text.push('\n');
        let rule = self
            .rule
            .as_ref()
            .map(|(index, path)| format!("rules[{index}] {path}"));
        let facts = [
            ("principal", self.principal.map(str::to_owned)),
            ("device", self.device.as_ref().map(ToString::to_string)),
            ("account", self.account.clone()),
            ("class", self.class.clone()),
            ("epoch", self.epoch.map(|epoch| epoch.to_string())),
            ("rule", rule),
            ("at", Some(self.at.to_string())),
        ];
        for (name, value) in facts {
            if let Some(value) = value {
                put!(text, "  {dim}{name:<10}{dim:#} {value}\n");
            }
        }
        put!(text, "\n{bold}steps{bold:#}\n");
        let width = self.steps.iter().map(|step| step.step.len()).max();
        let width = width.unwrap_or(0);
        for step in &self.steps {
            let colour = match step.outcome {
                StepOutcome::Passed => green,
                StepOutcome::Absent => dim,
                StepOutcome::Refused => red,
            };
            put!(
                text,
                "  {colour}{:<7}{colour:#}  {:<width$}  {}\n",
                step.outcome.as_str(),
                step.step,
                step.read
            );
        }
        if !self.headers.is_empty() {
            put!(text, "\n{bold}the upstream sees{bold:#}\n");
            for (name, value) in &self.headers {
                put!(text, "  {name}: {value}\n");
            }
        }
        if self.mode == Mode::Shadow {
            text.push_str("\nin shadow mode the request passes untagged, whatever is decided\n");
        }
        if let Some(reason) = &self.denied {
            let next = next_step(reason.code(), self.device.as_ref());
            put!(text, "\n{bold}next:{bold:#} {next}\n");
        }
        text
    }
}

/// What the operator does next.
fn next_step(code: DenyCode, device: Option<&DeviceId>) -> String {
    let device = device.map_or_else(|| "DEVICE".to_owned(), ToString::to_string);
    match code {
        DenyCode::NoPeerCertificate => {
            "the device must present its certificate in the TLS handshake".to_owned()
        }
        DenyCode::MalformedCertificate => {
            "make the certificate anew: the leaf alone, PEM, as RFC 5280 has it".to_owned()
        }
        DenyCode::UnknownIssuer => {
            "if this CA is yours, name it under `issuers:`; else it is a stranger".to_owned()
        }
        DenyCode::CertificateExpired => "renew the certificate; the binding stays".to_owned(),
        DenyCode::CertificateNotYetValid => "compare the clocks of CA and edge, or wait".to_owned(),
        DenyCode::CertificateNotAllowed => {
            format!("see the refused step; for a pin: medbind pin {device} --certificate FILE")
        }
        DenyCode::NoDeviceIdentity | DenyCode::AmbiguousDeviceIdentity => {
            "compare `identity:` of the issuer with what stands in the certificate".to_owned()
        }
        DenyCode::UnknownDevice => format!("enrol it: medbind enrol --device {device} ..."),
        DenyCode::DeviceUnclaimed => {
            "claim it: medbind claim --account ACCOUNT --code CODE".to_owned()
        }
        DenyCode::BindingSuspended => format!(
            "who holds it and why: medbind show {device}; if it may go on: medbind resume {device}"
        ),
        DenyCode::BindingRevoked => format!(
            "who ended it and why: medbind show {device}; it is refused for good, a new identity \
             needs a new serial"
        ),
        DenyCode::BindingExpired => {
            format!("if it goes on: medbind expire {device} --at TIME, or --never")
        }
        DenyCode::NoAccount => {
            "the caller must sign in; with --account-issuer and --account-subject it is tried here"
                .to_owned()
        }
        DenyCode::NotPermitted => {
            "compare method and path with `rules:`; the first rule that fits is final".to_owned()
        }
        DenyCode::BindingsUnavailable | DenyCode::BindingsStale | DenyCode::LookupFailed => {
            "look after the way from this Envoy to the registry".to_owned()
        }
        DenyCode::Internal => "report it: this is a bug".to_owned(),
    }
}
