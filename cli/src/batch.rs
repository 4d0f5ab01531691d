//! What of a batch is there already, and how does it go on?
//!
//! A device is made in this order: the line with its secret, its directory as a whole, its line for
//! `enrol`. So whoever is interrupted leaves at most a secret of no device, or a device without its
//! line, and both are mended here. A power cut may leave files that are empty, too.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use medbind_core::binding::DeviceClass;
use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::{ClaimCode, ClaimSecret, ClaimSecretHash};
use medbind_core::identity::DeviceId;
use medbind_registry::pki::{CERTIFICATE_FILE, KEY_FILE};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::Deserialize;

use crate::begun::Begun;
use crate::failure::Failure;
use crate::files::{self, Replacement};
use crate::label::SECRET_HEADING;
use crate::ledger::{self, Held, Ledger};
use crate::output;
use crate::provision::{
    CHAIN_FILE, DEVICE_FILE, Device, ENROL_FILE, LABEL_PNG, LABEL_SVG, ON_DISK_EVERY, Plan,
    SECRETS_HEADER,
};
use crate::workshop::Workshop;

/// Every file of a device.
const FILES: [&str; 6] = [
    KEY_FILE,
    CERTIFICATE_FILE,
    CHAIN_FILE,
    DEVICE_FILE,
    LABEL_SVG,
    LABEL_PNG,
];
/// The most devices that a message names.
const NAMED: usize = 3;

/// What `device.json` says.
#[derive(Debug, Deserialize)]
pub struct Enrolled {
    device: DeviceId,
    /// The claim code.
    pub code: ClaimCode,
    /// The hash of the claim secret.
    pub secret_hash: ClaimSecretHash,
    class: DeviceClass,
}

/// What there is of a device.
enum There {
    Nothing,
    Whole(Enrolled),
    HalfMade(String),
}

/// What there is of each device, by its text.
type Standing = HashMap<String, There>;

/// Looks through what an earlier run left, mends what it left by half, and answers with the devices
/// that are whole. Where there is something that an interruption does not explain, nothing is
/// touched.
pub fn go_on(
    plan: &Plan<'_>,
    devices: &[Device],
    workshop: &Workshop,
    bar: &ProgressBar,
) -> Result<HashMap<String, Enrolled>, Failure> {
    let mut standing = Standing::with_capacity(devices.len());
    for device in devices {
        let there = examine(plan, device)?;
        standing.insert(device.id.to_string(), there);
        bar.inc(1);
    }
    let enrol = enrol_lines(&plan.args.out, devices, &standing)?;
    let secrets = match &plan.args.secrets {
        Some(path) => {
            let begun = Begun::all(&plan.args.out)?;
            let not_here: HashSet<&str> = devices
                .iter()
                .filter(|device| !begun.iter().any(|begun| begun.holds(device.id.serial())))
                .map(|device| device.id.as_str())
                .collect();
            let secrets = SecretRows::read(path, devices, &standing)?;
            secrets.refuse_others(&not_here, &standing, &plan.args.out)?;
            Some(secrets)
        }
        None => None,
    };

    // From here on things change; an interruption leaves what can be gone on with again.
    if let Some(secrets) = secrets {
        secrets.keep()?;
    }
    enrol.take_place()?;
    for device in devices {
        let Some(There::HalfMade(why)) = standing.get(device.id.as_str()) else {
            continue;
        };
        let aside = workshop.set_aside(&device.dir)?;
        output::warning(format_args!(
            "{} was half made ({why}): it is made anew, and what was there is in {}",
            device.id,
            aside.display()
        ));
    }
    let whole = standing
        .into_iter()
        .filter_map(|(device, there)| match there {
            There::Whole(enrolled) => Some((device, enrolled)),
            There::Nothing | There::HalfMade(_) => None,
        });
    Ok(whole.collect())
}

/// Some devices by name, and how many more there are.
fn some(devices: &[String]) -> String {
    let named = devices.iter().take(NAMED).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match devices.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Files that are missing were taken away: a directory is there as a whole or not at all. What is
/// there and of no use was not written to the end.
fn examine(plan: &Plan<'_>, device: &Device) -> Result<There, Failure> {
    let dir = &device.dir;
    if !dir.exists() {
        return Ok(There::Nothing);
    }
    let mut key = None;
    for name in FILES {
        let path = dir.join(name);
        match fully_written(&path) {
            Ok(true) if name == KEY_FILE => key = Some(read(&path)?),
            Ok(true) => {}
            Ok(false) => return Ok(There::HalfMade(format!("{name} holds nothing"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if [CERTIFICATE_FILE, DEVICE_FILE].contains(&name) {
                    return Err(Failure::refused(format_args!(
                        "{} is there, and holds no {name}",
                        dir.display()
                    ))
                    .next("put the file back, or take the directory away to have it made anew"));
                }
            }
            Err(error) => return Err(Failure::unreadable(&path, &error)),
        }
    }
    let half_made = |name: &str| Ok(There::HalfMade(format!("{name} does not parse")));
    let line = read(&dir.join(DEVICE_FILE))?;
    let Ok(enrolled) = serde_json::from_slice::<Enrolled>(&line) else {
        return half_made(DEVICE_FILE);
    };
    let pem = read(&dir.join(CERTIFICATE_FILE))?;
    let Ok(certificate) = PeerCertificate::parse(&pem) else {
        return half_made(CERTIFICATE_FILE);
    };
    let other = |what: &dyn std::fmt::Display| {
        Failure::usage(format_args!(
            "{} is there already, and {what}",
            dir.display()
        ))
        .next("go on with the options that the batch was begun with, or choose another --out")
    };
    if enrolled.device != device.id {
        return Err(other(&format_args!("is of {}", enrolled.device)));
    }
    if let Some(class) = &plan.args.class
        && enrolled.class != *class
    {
        return Err(other(&format_args!("its class is {}", enrolled.class)));
    }
    plan.prove(&certificate, &device.id)
        .map_err(|failure| other(&failure))?;
    if let Some(key) = key {
        let key = String::from_utf8(key).ok();
        let Some(key) = key.and_then(|pem| KeyPair::from_pem(&pem).ok()) else {
            return half_made(KEY_FILE);
        };
        if key.subject_public_key_info() != certificate.spki_der() {
            return Err(Failure::refused(format_args!(
                "{} does not hold the key of its certificate",
                dir.join(KEY_FILE).display()
            ))
            .next("a renewal was interrupted: renew it again, with --serial and --renew"));
        }
    }
    Ok(There::Whole(enrolled))
}

/// Whether the end of a file was written: none of ours is empty or ends in NUL.
fn fully_written(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != [0])
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::unreadable(path, &error))
}

/// What names a device in a line of `enrol.ndjson`.
#[derive(Deserialize)]
struct EnrolLine {
    device: String,
    code: String,
}

/// `enrol.ndjson` as it must be: the line of each whole device once, and of others what was there.
fn enrol_lines(
    out: &Path,
    devices: &[Device],
    standing: &Standing,
) -> Result<Replacement, Failure> {
    let path = out.join(ENROL_FILE);
    // Nobody else goes on with a batch here meanwhile.
    files::remove_left(&path)?;
    let mut anew = Replacement::of(&path)?;
    let mut noted = HashSet::new();
    let mut gone = Vec::new();
    for line in ledger::lines(&path)? {
        let line = line?;
        let kept = match serde_json::from_slice::<EnrolLine>(&line.text) {
            Err(_) => line.ended,
            Ok(EnrolLine { device, code }) => match standing.get(&device) {
                None => true,
                Some(There::HalfMade(_)) => false,
                Some(There::Nothing) => {
                    gone.push(device);
                    true
                }
                Some(There::Whole(enrolled)) => {
                    enrolled.code.to_string() == code && noted.insert(device)
                }
            },
        };
        if kept {
            anew.write(&line.text)?;
            anew.write(b"\n")?;
        }
    }
    if !gone.is_empty() {
        return Err(Failure::refused(format_args!(
            "{} in {} was made, and its directory is not there",
            some(&gone),
            path.display()
        ))
        .next("put the directory back, or take the line away to have the device made anew"));
    }
    for device in devices {
        let text = device.id.as_str();
        if matches!(standing.get(text), Some(There::Whole(_))) && !noted.contains(text) {
            let line = read(&device.dir.join(DEVICE_FILE))?;
            anew.write(line.trim_ascii_end())?;
            anew.write(b"\n")?;
        }
    }
    Ok(anew)
}

/// The file of --secrets as it must be, and the rows that are of no device.
struct SecretRows {
    path: PathBuf,
    /// Where there is a file; other batches that write into it wait.
    anew: Option<(Replacement, Held)>,
    taken_out: Vec<String>,
}

impl SecretRows {
    fn read(path: &Path, devices: &[Device], standing: &Standing) -> Result<Self, Failure> {
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(Failure::usage(format_args!(
                "{} is no file: what was written to it cannot be read again",
                path.display()
            ))
            .next("name a file with --secrets"));
        }
        let mut anew = match Held::wait(path)? {
            Some(held) => {
                files::remove_left(path)?;
                Some((Replacement::of(path)?, held))
            }
            None => None,
        };
        let mut noted = HashSet::new();
        let mut taken_out = Vec::new();
        for line in ledger::lines(path)? {
            let Some((anew, _)) = &mut anew else {
                // Whoever has made it since writes into it alone.
                break;
            };
            let line = line?;
            let row = String::from_utf8_lossy(&line.text).into_owned();
            let fields: Vec<&str> = row.trim_end().split(',').collect();
            let kept = match fields[..] {
                [device, code, secret] => match standing.get(device) {
                    // A header that was cut off is made again.
                    None => line.ended,
                    Some(There::Nothing | There::HalfMade(_)) => false,
                    Some(There::Whole(enrolled)) => {
                        let fits = code == enrolled.code.to_string()
                            && secret
                                .parse::<ClaimSecret>()
                                .is_ok_and(|secret| secret.hash() == enrolled.secret_hash);
                        fits && noted.insert(device.to_owned())
                    }
                },
                _ => line.ended,
            };
            if kept {
                anew.write(&line.text)?;
                anew.write(b"\n")?;
            } else {
                taken_out.push(row);
            }
        }
        // Fail closed: what a power cut leaves was made since all was last forced to the disk.
        if taken_out.len() > ON_DISK_EVERY {
            return Err(Failure::refused(format_args!(
                "{} holds {} lines of devices that are not there: no interruption leaves so many",
                path.display(),
                taken_out.len()
            ))
            .next(
                "put the devices' directories back; to have them made anew name another --secrets \
                 file",
            ));
        }
        let mut on_labels = Vec::new();
        let mut nowhere = Vec::new();
        for device in devices {
            let text = device.id.as_str();
            if noted.contains(text) || !matches!(standing.get(text), Some(There::Whole(_))) {
                continue;
            }
            let label = fs::read_to_string(device.dir.join(LABEL_SVG));
            if label.is_ok_and(|label| label.contains(SECRET_HEADING)) {
                on_labels.push(text.to_owned());
            } else {
                nowhere.push(text.to_owned());
            }
        }
        if !nowhere.is_empty() {
            return Err(Failure::refused(format_args!(
                "{} is there already, and its claim secret is not in {}",
                some(&nowhere),
                path.display()
            ))
            .next(
                "name the --secrets file that the batch was begun with; where a secret is lost, \
                 take the device's directory and its line in enrol.ndjson away to have it made anew",
            ));
        }
        if !on_labels.is_empty() {
            output::warning(format_args!(
                "the claim secret of {} stands on the label alone, and not in {}",
                some(&on_labels),
                path.display()
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            anew,
            taken_out,
        })
    }

    /// A valid secret of a device that was never begun here is of one that was made elsewhere.
    fn refuse_others(
        &self,
        not_here: &HashSet<&str>,
        standing: &Standing,
        out: &Path,
    ) -> Result<(), Failure> {
        let elsewhere: Vec<String> = self
            .taken_out
            .iter()
            .filter_map(
                |row| match row.trim_end().split(',').collect::<Vec<_>>()[..] {
                    [device, _, secret] if secret.parse::<ClaimSecret>().is_ok() => Some(device),
                    _ => None,
                },
            )
            .filter(|device| not_here.contains(device))
            .filter(|device| matches!(standing.get(*device), Some(There::Nothing)))
            .map(str::to_owned)
            .collect();
        if elsewhere.is_empty() {
            return Ok(());
        }
        Err(Failure::refused(format_args!(
            "{} holds the claim secret of {}, and no batch of it was begun in {}",
            self.path.display(),
            some(&elsewhere),
            out.display()
        ))
        .next(
            "name the --out that the batch was begun with; to have the devices made anew name \
             another --secrets file",
        ))
    }

    /// Nothing that may be a secret is thrown away.
    fn keep(self) -> Result<(), Failure> {
        if !self.taken_out.is_empty() {
            let mut beside = self.path.clone().into_os_string();
            beside.push(".taken-out");
            let beside = PathBuf::from(beside);
            let mut ledger = Ledger::open(&beside, SECRETS_HEADER)?;
            for row in &self.taken_out {
                ledger.append(&format!("{row}\n"))?;
            }
            output::warning(format_args!(
                "{} had {} lines of devices that were not made: they are in {} now",
                self.path.display(),
                self.taken_out.len(),
                beside.display()
            ));
        }
        match self.anew {
            // Who waits for the old file finds the new one in its place.
            Some((anew, held)) => anew.take_place().map(|()| drop(held)),
            None => Ok(()),
        }
    }
}
