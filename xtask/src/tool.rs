//! Where is a tool that is written in Rust, and not part of the workspace?

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::programs::cargo;
use crate::shell;
use crate::workspace;

/// A tool by package and version.
pub struct Tool<'a> {
    /// The package that holds it.
    pub package: &'a str,
    /// Its one version.
    pub version: &'a str,
    /// The program.
    pub binary: &'a str,
    /// Whether it is built with the versions of its own lock file.
    pub locked: bool,
}

impl Tool<'_> {
    /// The program, installed where it is not there yet.
    pub fn find(&self) -> Result<PathBuf> {
        let folder = workspace::tools().join(format!("{}-{}", self.package, self.version));
        let program = folder.join("bin").join(self.binary);
        if !program.is_file() {
            let mut install = cargo("install");
            install
                .args([self.package, "--debug", "--version", self.version, "--root"])
                .arg(&folder)
                .arg("--target-dir")
                .arg(workspace::tools().join("build"))
                .env("CARGO_PROFILE_DEV_DEBUG", "false");
            if self.locked {
                install.arg("--locked");
            }
            let title = format!("installing {} {}", self.package, self.version);
            shell::run_quietly(&title, &mut install, Duration::from_mins(20))?;
        }
        Ok(program)
    }
}
