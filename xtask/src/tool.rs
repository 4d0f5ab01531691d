//! Where is a tool that is written in Rust, and not part of the workspace?

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use medbind_workshop::shell;
use medbind_workshop::workspace;

use crate::module::digest;
use crate::programs::cargo;

/// A tool: what it is built of, always with the versions of a lock file.
pub enum Tool<'a> {
    /// A package of the index, which comes with its own.
    Package {
        /// Its name.
        name: &'a str,
        /// Its one version.
        version: &'a str,
    },
    /// A package in a folder of this checkout, whose name it has.
    Folder(&'a str),
}

impl Tool<'_> {
    /// Its program of this name, installed where it is not there yet.
    pub fn find(&self, program: &str) -> Result<PathBuf> {
        let (name, what) = match self {
            Self::Package { name, version } => (
                format!("{name}-{version}"),
                vec![
                    (*name).to_owned(),
                    "--version".to_owned(),
                    (*version).to_owned(),
                ],
            ),
            Self::Folder(folder) => {
                let folder = workspace::root().join(folder);
                // Another lock file is another tool.
                let lock = folder.join("Cargo.lock");
                let octets =
                    fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
                let mark: String = digest(&octets).chars().take(12).collect();
                let path = folder.to_string_lossy().into_owned();
                (format!("{program}-{mark}"), vec!["--path".to_owned(), path])
            }
        };
        let folder = workspace::tools().join(&name);
        let path = folder.join("bin").join(program);
        if !path.is_file() {
            let mut install = cargo("install");
            install
                .args(["--locked", "--debug"])
                .args(what)
                .arg("--root")
                .arg(&folder)
                .arg("--target-dir")
                .arg(workspace::tools().join("build"))
                .env("CARGO_PROFILE_DEV_DEBUG", "false");
            let title = format!("installing {name}");
            shell::run_quietly(&title, &mut install, Duration::from_mins(20))?;
        }
        Ok(path)
    }
}
