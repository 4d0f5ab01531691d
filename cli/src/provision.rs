//! How is a device made? Key, certificate, claim code and secret, label.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::{CODE_SYMBOLS, ClaimCode, ClaimSecret, SECRET_SYMBOLS};
use medbind_core::identity::DeviceId;
use medbind_core::issuer::IssuerSet;
use medbind_core::peer::authenticate;
use medbind_core::signature::{KeyPolicy, RustVerifier};
use medbind_registry::pki::{CERTIFICATE_FILE, KEY_FILE, create_private_directory, replace_files};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PublicKeyData, SerialNumber,
};
use serde_json::json;

use crate::args::{Global, KeyType, Provision, YesNo};
use crate::batch::{self, Enrolled};
use crate::begun::Begun;
use crate::ca::{self, DeviceCa};
use crate::failure::{Failure, Outcome};
use crate::label::Label;
use crate::ledger::{self, Ledger};
use crate::output::{self, put};
use crate::source::{self, Source};
use crate::workshop::Workshop;

/// The certificate, and the intermediate that signed it.
pub const CHAIN_FILE: &str = "chain.pem";
/// The line for `medbind enrol`.
pub const DEVICE_FILE: &str = "device.json";
/// The label, to be drawn.
pub const LABEL_SVG: &str = "label.svg";
/// The label, drawn.
pub const LABEL_PNG: &str = "label.png";
/// All enrol lines of an output directory.
pub const ENROL_FILE: &str = "enrol.ndjson";
/// The first line of the file of --secrets.
pub const SECRETS_HEADER: &str = "device,code,secret\n";
/// What was made is forced to the disk each time so many are made, and at the end.
pub const ON_DISK_EVERY: usize = 1_000;

/// A device that is to be made.
pub struct Device {
    serial: String,
    /// Its identity.
    pub id: DeviceId,
    /// Its directory.
    pub dir: PathBuf,
}

/// What is the same for every device of one call.
pub struct Plan<'a> {
    /// What was asked for.
    pub args: &'a Provision,
    ca: DeviceCa,
    sources: Vec<Source>,
    issuers: IssuerSet,
    begin: i64,
    end: i64,
    portal: Option<String>,
}

/// What was made for one device.
struct Made {
    device: DeviceId,
    dir: PathBuf,
    not_after: i64,
    claim: Option<Claimable>,
}

struct Claimable {
    code: ClaimCode,
    secret: ClaimSecret,
    label: Label,
}

/// What is written down of each device.
struct Ledgers {
    enrol: Ledger,
    secrets: Option<Ledger>,
}

impl Ledgers {
    fn open(args: &Provision) -> Result<Self, Failure> {
        let secrets = args.secrets.as_deref();
        let secrets = secrets.map(|path| Ledger::open(path, SECRETS_HEADER));
        Ok(Self {
            enrol: Ledger::open(&args.out.join(ENROL_FILE), "")?,
            secrets: secrets.transpose()?,
        })
    }
}

/// `medbind provision`.
pub fn provision(args: &Provision, global: &Global) -> Outcome {
    let plan = plan(args, global)?;
    let devices = devices(args, &plan.ca.settings.namespace)?;
    let many = devices.len() > 1;
    let on_label = args.secret_on_label == YesNo::Yes;
    if many && !on_label && args.secrets.is_none() && !args.renew {
        return Err(
            Failure::usage("the claim secrets of a batch would be kept nowhere").next(
                "add --secrets FILE, or let them stand on the labels (--secret-on-label yes)",
            ),
        );
    }
    let workshop = Workshop::enter(&args.out, args.go_on)?;
    let bar = progress(devices.len(), many && !global.json);
    let made = plan.make_all(&devices, &workshop, global, &bar);
    bar.finish_and_clear();
    let kept = made?;
    if args.from.is_some() && !global.json && (many || kept > 0) {
        let kept = match kept {
            0 => String::new(),
            kept => format!(", {kept} of them were there already"),
        };
        output::line(&format!(
            "{} devices below {}{kept}; next: medbind enrol {}",
            devices.len(),
            args.out.display(),
            args.out.join(ENROL_FILE).display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn progress(count: usize, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{msg}{bar:40} {pos}/{len} devices, {per_sec}, {eta} left");
    ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn plan<'a>(args: &'a Provision, global: &Global) -> Result<Plan<'a>, Failure> {
    let ca = DeviceCa::load(&args.ca)?;
    let mut sources = source::parse(&args.sources)?;
    if sources.is_empty() {
        sources.clone_from(&ca.settings.identity);
    }
    let (begin, end) = ca::validity(&args.validity, Timestamp::now())?;
    if end > ca.not_after {
        return Err(Failure::usage(format_args!(
            "the certificate would outlive its CA, which is {}",
            ca::end_in_words(ca.not_after)
        ))
        .next("choose a shorter --validity, or make a CA that lasts longer"));
    }
    let portal = args.portal.clone().or_else(|| global.registry.clone());
    if let Some(portal) = &portal
        && !(portal.starts_with("https://") && reqwest::Url::parse(portal).is_ok())
    {
        return Err(Failure::usage(format_args!(
            "--portal {portal} is no https:// address"
        )));
    }
    if portal.is_none() && !args.renew {
        output::warning("without --portal the QR code holds code and secret, and no link");
    }
    Ok(Plan {
        args,
        issuers: ca.as_issuer(&sources)?,
        ca,
        sources,
        begin,
        end,
        portal,
    })
}

/// The devices to make, in order.
fn devices(args: &Provision, namespace: &str) -> Result<Vec<Device>, Failure> {
    let device = |serial: String| {
        let id = DeviceId::new(namespace, serial.as_bytes())
            .map_err(|error| Failure::usage(format_args!("the serial {serial:?}: {error}")))?;
        let dir = args.out.join(id.serial());
        Ok(Device { serial, id, dir })
    };
    serials(args)?.into_iter().map(device).collect()
}

fn serials(args: &Provision) -> Result<Vec<String>, Failure> {
    let (Some(from), Some(count)) = (&args.from, args.count) else {
        return Ok(args.serial.iter().cloned().collect());
    };
    let head = from.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = from.strip_prefix(head).unwrap_or_default();
    let first: u64 = digits.parse().map_err(|_| {
        Failure::usage(format_args!("--from {from} does not end in a number"))
            .next("write the first serial with its digits, such as SN0001")
    })?;
    let width = digits.len();
    let last = first.checked_add(u64::from(count).saturating_sub(1));
    let last = last.filter(|last| last.to_string().len() <= width);
    let last = last.ok_or_else(|| {
        Failure::usage(format_args!(
            "--from {from} --count {count}: the last serial would need more digits than {width}"
        ))
        .next("begin with more digits, such as SN000001")
    })?;
    Ok((first..=last)
        .map(|n| format!("{head}{n:0width$}"))
        .collect())
}

impl Plan<'_> {
    /// Makes them; answers how many were there already.
    fn make_all(
        &self,
        devices: &[Device],
        workshop: &Workshop,
        global: &Global,
        bar: &ProgressBar,
    ) -> Result<usize, Failure> {
        if self.args.renew {
            for device in devices {
                self.renew(device)?;
                self.tell(&self.made(device, None), devices.len(), global, bar);
                bar.inc(1);
            }
            return Ok(0);
        }
        let there = if self.args.go_on {
            bar.set_message("looking through what is there: ");
            let there = batch::go_on(self, devices, workshop, bar)?;
            bar.reset();
            bar.set_message("");
            there
        } else {
            refuse_what_is_there(devices, self.args)?;
            HashMap::new()
        };
        let mut ledgers = Ledgers::open(self.args)?;
        let begun = self.note_begun(devices)?;
        let made = self.make_others(devices, &there, workshop, &mut ledgers, global, bar);
        let secrets = ledgers.secrets.as_ref();
        match begun {
            Some(begun) if made.is_ok() => self.note_ended(begun)?,
            // Of what is in the file of --secrets nothing was begun here.
            Some(begun) if !secrets.is_some_and(Ledger::has_added) => begun.end()?,
            Some(_) | None => {}
        }
        made.map(|()| there.len())
    }

    /// Makes those that are not there.
    fn make_others(
        &self,
        devices: &[Device],
        there: &HashMap<String, Enrolled>,
        workshop: &Workshop,
        ledgers: &mut Ledgers,
        global: &Global,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut since = 0;
        for device in devices {
            if let Some(enrolled) = there.get(device.id.as_str()) {
                self.tell_kept(device, enrolled, global);
            } else {
                let made = self.make(device, workshop, ledgers)?;
                self.tell(&made, devices.len(), global, bar);
                since += 1;
            }
            if since == ON_DISK_EVERY {
                workshop.sync()?;
                since = 0;
            }
            bar.inc(1);
        }
        workshop.sync()
    }

    /// Notes down which secrets may come to stand in the file of --secrets without their devices.
    fn note_begun(&self, devices: &[Device]) -> Result<Option<Begun>, Failure> {
        let (Some(first), Some(last)) = (devices.first(), devices.last()) else {
            return Ok(None);
        };
        let noted = self
            .args
            .secrets
            .is_some()
            .then(|| Begun::note(&self.args.out, first.id.serial(), last.id.serial()));
        noted.transpose()
    }

    fn note_ended(&self, begun: Begun) -> Result<(), Failure> {
        // Who goes on with a batch is alone: all that it went on with has ended.
        if self.args.go_on {
            for other in Begun::all(&self.args.out)? {
                if begun.holds_all_of(&other) {
                    other.end()?;
                }
            }
        }
        begun.end()
    }

    /// Makes one. The order matters to who goes on with a batch that was interrupted: the secret
    /// is on the disk before there is a device that needs it.
    fn make(
        &self,
        device: &Device,
        workshop: &Workshop,
        ledgers: &mut Ledgers,
    ) -> Result<Made, Failure> {
        let (certificate, key) = self.certificate(&device.serial)?;
        self.check(&certificate, &device.id)?;
        let claim = self.claimable(&device.id)?;
        let line = self.enrol_line(&device.id, &claim);
        let mut files: Vec<(&str, Vec<u8>)> = vec![
            (CERTIFICATE_FILE, certificate.clone().into_bytes()),
            (CHAIN_FILE, self.chain(&certificate).into_bytes()),
            (DEVICE_FILE, line.clone().into_bytes()),
            (LABEL_SVG, claim.label.svg().into_bytes()),
            (LABEL_PNG, claim.label.png()?),
        ];
        if let Some(key) = key {
            files.push((KEY_FILE, key.into_bytes()));
        }
        let _turn = workshop.turn()?;
        if device.dir.exists() {
            return Err(made_meanwhile(device));
        }
        if let Some(secrets) = &mut ledgers.secrets {
            let Claimable { code, secret, .. } = &claim;
            let row = format!("{},{code},{}\n", device.id, secret.reveal());
            secrets.append_once(device.id.as_str(), &row)?;
        }
        workshop.place(&device.dir, &files)?;
        ledgers.enrol.append(&line)?;
        Ok(self.made(device, Some(claim)))
    }

    fn made(&self, device: &Device, claim: Option<Claimable>) -> Made {
        Made {
            device: device.id.clone(),
            dir: device.dir.clone(),
            not_after: self.end,
            claim,
        }
    }

    fn tell(&self, made: &Made, count: usize, global: &Global, bar: &ProgressBar) {
        let text = if global.json {
            format!("{}\n", made.to_json(self))
        } else if count == 1 {
            bar.finish_and_clear();
            made.to_text(self)
        } else {
            return;
        };
        let kept = self.args.secrets.is_some() || self.args.secret_on_label == YesNo::Yes;
        if made.claim.is_some() && !kept {
            output::text_with_secret(&text, made.device.as_str());
        } else {
            output::text(&text);
        }
    }

    fn tell_kept(&self, device: &Device, enrolled: &Enrolled, global: &Global) {
        if !global.json {
            return;
        }
        let at = |name: &str| {
            let path = device.dir.join(name);
            path.exists().then(|| path.display().to_string())
        };
        output::json(&json!({
            "device": device.id,
            "directory": device.dir.display().to_string(),
            "certificate": at(CERTIFICATE_FILE),
            "chain": at(CHAIN_FILE),
            "key": at(KEY_FILE),
            "kept": true,
            "class": self.args.class,
            "code": enrolled.code,
            "secret_hash": enrolled.secret_hash,
            "enrol": at(DEVICE_FILE),
            "label_svg": at(LABEL_SVG),
            "label_png": at(LABEL_PNG),
        }));
    }

    fn renew(&self, device: &Device) -> Result<(), Failure> {
        let (certificate, key) = self.certificate(&device.serial)?;
        self.check(&certificate, &device.id)?;
        create_private_directory(&device.dir).map_err(Failure::refused)?;
        let chain = self.chain(&certificate);
        let mut files = Vec::new();
        if let Some(key) = &key {
            files.push((KEY_FILE, key.as_bytes()));
        }
        files.push((CERTIFICATE_FILE, certificate.as_bytes()));
        files.push((CHAIN_FILE, chain.as_bytes()));
        output::warnings(&replace_files(&device.dir, &files).map_err(Failure::refused)?);
        Ok(())
    }

    /// No device leaves with a certificate that a guard refuses or takes for another device's.
    fn check(&self, certificate: &str, device: &DeviceId) -> Result<(), Failure> {
        let parsed = PeerCertificate::parse(certificate.as_bytes())
            .map_err(|error| refused_by_a_guard(device, &error));
        self.prove(&parsed?, device).map_err(|failure| {
            failure.next("choose another serial, another --source, or for a CSR another key")
        })
    }

    /// Whether a guard reads the certificate as the device's.
    pub fn prove(&self, certificate: &PeerCertificate, device: &DeviceId) -> Result<(), Failure> {
        let policy = KeyPolicy::default();
        let peer = authenticate(&self.issuers, &policy, certificate, &RustVerifier);
        let peer = peer.map_err(|reason| refused_by_a_guard(device, &reason))?;
        if peer.device() == device {
            Ok(())
        } else {
            let read = format_args!("it reads {}", peer.device());
            Err(refused_by_a_guard(device, &read))
        }
    }

    /// The leaf, and the intermediate that signed it.
    fn chain(&self, certificate: &str) -> String {
        match self.ca.root_pem {
            Some(_) => format!("{certificate}{}", self.ca.authority.certificate_pem()),
            None => certificate.to_owned(),
        }
    }

    /// The certificate as PEM, and the key where one was made.
    fn certificate(&self, serial: &str) -> Result<(String, Option<String>), Failure> {
        if let Some(path) = &self.args.csr {
            let key = requested_key(path)?;
            return Ok((self.sign(serial, &key)?, None));
        }
        let key = KeyPair::generate_for(match self.args.key_type {
            KeyType::P256 => &PKCS_ECDSA_P256_SHA256,
            KeyType::P384 => &PKCS_ECDSA_P384_SHA384,
            KeyType::Ed25519 => &PKCS_ED25519,
        })
        .map_err(|error| failed(&error))?;
        Ok((self.sign(serial, &key)?, Some(key.serialize_pem())))
    }

    fn sign(&self, serial: &str, key: &impl PublicKeyData) -> Result<String, Failure> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        let names = source::place(&self.sources, serial, &mut subject)?;
        params.distinguished_name = subject;
        params.custom_extensions = names.into_iter().collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = ca::date(self.begin)?;
        params.not_after = ca::date(self.end)?;
        // RFC 5280, 4.1.2.2: positive, at most 20 octets; random, so that no two agree.
        let mut number: [u8; 16] = rand::random();
        number[0] = (number[0] & 0x7F) | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&number));
        let issuer = self.ca.authority.issuer();
        let certificate = params.signed_by(key, issuer);
        let certificate = certificate.map_err(|error| failed(&error))?;
        Ok(certificate.pem())
    }

    fn claimable(&self, device: &DeviceId) -> Result<Claimable, Failure> {
        let secret = ClaimSecret::from_entropy(rand::random::<[u8; SECRET_SYMBOLS]>());
        // Of 37 check symbols five are hard to type: draw again.
        let code = loop {
            let code = ClaimCode::from_entropy(rand::random::<[u8; CODE_SYMBOLS]>());
            if code.is_plain() {
                break code;
            }
        };
        let on_label = (self.args.secret_on_label == YesNo::Yes).then_some(&secret);
        let label = Label::new(self.portal.as_deref(), device, &code, on_label)?;
        Ok(Claimable {
            code,
            secret,
            label,
        })
    }

    fn enrol_line(&self, device: &DeviceId, claim: &Claimable) -> String {
        let mut line = json!({
            "device": device,
            "code": claim.code,
            "secret_hash": claim.secret.hash(),
        });
        if let (Some(class), Some(line)) = (&self.args.class, line.as_object_mut()) {
            line.insert("class".to_owned(), json!(class));
        }
        format!("{line}\n")
    }
}

impl Made {
    fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn to_json(&self, plan: &Plan<'_>) -> serde_json::Value {
        let key = plan.args.csr.is_none().then(|| self.at(KEY_FILE));
        let mut made = json!({
            "device": self.device,
            "directory": self.dir.display().to_string(),
            "certificate": self.at(CERTIFICATE_FILE),
            "chain": self.at(CHAIN_FILE),
            "key": key,
            "kept": false,
            "not_after": ca::end_of(self.not_after),
        });
        if let (Some(claim), Some(made)) = (&self.claim, made.as_object_mut()) {
            made.extend([
                ("class".to_owned(), json!(plan.args.class)),
                ("code".to_owned(), json!(claim.code)),
                (
                    "secret".to_owned(),
                    json!(claim.secret.reveal().to_string()),
                ),
                ("secret_hash".to_owned(), json!(claim.secret.hash())),
                ("link".to_owned(), json!(claim.label.link())),
                ("enrol".to_owned(), json!(self.at(DEVICE_FILE))),
                ("label_svg".to_owned(), json!(self.at(LABEL_SVG))),
                ("label_png".to_owned(), json!(self.at(LABEL_PNG))),
            ]);
        }
        made
    }

    fn to_text(&self, plan: &Plan<'_>) -> String {
        let (bold, dim) = (output::BOLD, output::DIM);
        let mut text = format!(
            "{bold}{}{bold:#}, certificate {}\n  {}/\n",
            self.device,
            ca::end_in_words(self.not_after),
            self.dir.display()
        );
        let Some(claim) = &self.claim else {
            text.push_str("  renewed: the binding hangs on the identity and stays\n");
            return text;
        };
        if !plan.args.no_qr {
            text.push('\n');
            text.push_str(&claim.label.terminal());
        }
        put!(
            text,
            "\n  claim code    {bold}{}{bold:#}\n  claim secret  {bold}{}{bold:#}  \
             {dim}(shown once; the registry gets its hash){dim:#}\n\n\
             {dim}next: medbind enrol {}{dim:#}\n",
            claim.code,
            claim.secret.reveal(),
            self.at(DEVICE_FILE)
        );
        text
    }
}

fn refused_by_a_guard(device: &DeviceId, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format_args!(
        "a guard would refuse the certificate of {device}: {why}"
    ))
}

/// Before the first one is made.
fn refuse_what_is_there(devices: &[Device], args: &Provision) -> Result<(), Failure> {
    let batch = args.from.is_some();
    let Some(there) = devices.iter().find(|device| device.dir.exists()) else {
        return match &args.secrets {
            Some(path) => refuse_another_secret(devices, path, batch),
            None => Ok(()),
        };
    };
    let failure = Failure::refused(format_args!(
        "{} is there already, and keys are never overwritten",
        there.dir.display()
    ));
    Err(if batch {
        failure.next(
            "to go on with a batch that stopped add --continue; for new certificates of the same \
             devices add --renew, else choose another --out",
        )
    } else {
        failure
            .next("for a new certificate of the same device add --renew, else choose another --out")
    })
}

/// Who is the second makes nothing, and writes no secret.
fn made_meanwhile(device: &Device) -> Failure {
    Failure::refused(format_args!(
        "{} was made meanwhile by another `medbind provision`, and keys are never overwritten",
        device.dir.display()
    ))
    .next("use what the other has made; for further devices choose other serials")
}

/// A device that stood twice in the file of --secrets would be claimed with the wrong one.
fn refuse_another_secret(devices: &[Device], path: &Path, batch: bool) -> Result<(), Failure> {
    // A pipe is read by somebody else.
    if !path.is_file() {
        return Ok(());
    }
    let devices: HashSet<&[u8]> = devices
        .iter()
        .map(|device| device.id.as_str().as_bytes())
        .collect();
    for line in ledger::lines(path)? {
        let text = line?.text;
        let device = text.split(|octet| *octet == b',').next();
        let Some(device) = device.filter(|device| devices.contains(device)) else {
            continue;
        };
        let failure = Failure::refused(format_args!(
            "{} has a secret of {} already: what wrote it was interrupted, or made the device in \
             another directory",
            path.display(),
            String::from_utf8_lossy(device)
        ));
        return Err(if batch {
            failure.next(
                "to go on with a batch that stopped add --continue; where the device was made \
                 elsewhere, name another file",
            )
        } else {
            failure.next("where no device has it, take the line away; else name another file")
        });
    }
    Ok(())
}

fn failed(error: &rcgen::Error) -> Failure {
    Failure::refused(format_args!("cannot make the certificate: {error}"))
}

/// The public key of a certificate signing request whose signature proves that the device has the
/// private one. Nothing else of the request is taken over: who the device is, the CA says.
fn requested_key(path: &Path) -> Result<rcgen::PublicKey, Failure> {
    let pem = fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))?;
    let request = CertificateSigningRequestParams::from_pem(&pem).map_err(|error| {
        Failure::usage(format_args!(
            "{} is no request that can be signed: {error}",
            path.display()
        ))
        .next("a PKCS #10 request as PEM, signed with the device's own key, is needed")
    })?;
    Ok(request.public_key)
}
