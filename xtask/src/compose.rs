//! The Compose stack: what its images are made of, and the base that they stand on.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::EnvoyArgs;
use crate::module::{self, Module};
use crate::programs;
use crate::shell;
use crate::workspace;

/// The base image, where it can be had.
const BASE: &str = "debian:bookworm-slim";
/// The base image that is made here where none can be had.
const OWN_BASE: &str = "medbind/base:bookworm";

/// The options of `cargo xtask compose`.
#[derive(Args)]
pub struct ComposeArgs {
    /// What to do
    #[arg(value_enum, default_value = "up")]
    action: Action,
    /// The base image of all images
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    #[command(flatten)]
    envoy: EnvoyArgs,
}

/// What to do with the stack.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Start it and leave it running
    Up,
    /// Tell the story across it and take it down
    Test,
    /// Take it down
    Down,
}

/// `cargo xtask compose`.
pub fn run(args: &ComposeArgs) -> Result<ExitCode> {
    for program in ["docker", "docker-compose"] {
        if !shell::exists(program) {
            bail!(
                "{program} is missing; install Docker and docker-compose, or run: cargo xtask demo"
            );
        }
    }
    let base = match &args.base {
        Some(base) => base.clone(),
        None if args.action == Action::Down => BASE.to_owned(),
        None => base()?,
    };
    module::build(&[Module::Deployed])?;
    programs::build(&["medbind", "medbind-party", "compose"])?;
    let status = programs::harness("compose", &args.envoy)?
        .arg("--folder")
        .arg(workspace::target().join("compose"))
        .args(["--base", &base])
        .arg(match args.action {
            Action::Up => "up",
            Action::Test => "test",
            Action::Down => "down",
        })
        .status()
        .context("cannot run the Compose stack")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A base image that is here, can be pulled, or can be made of Debian's packages.
fn base() -> Result<String> {
    let is_here = |image: &str| {
        shell::output(Command::new("docker").args(["image", "inspect", image])).is_ok()
    };
    for image in [BASE, OWN_BASE] {
        if is_here(image) {
            return Ok(image.to_owned());
        }
    }
    let pulled = shell::run_quietly(
        &format!("pulling {BASE}"),
        Command::new("docker").args(["pull", "--quiet", BASE]),
        Duration::from_mins(3),
    );
    if pulled.is_ok() {
        return Ok(BASE.to_owned());
    }
    if !shell::is_root() {
        bail!(
            "{BASE} cannot be pulled, and only root can make a base image; name one that is here with --base IMAGE"
        );
    }
    if !shell::exists("debootstrap") {
        shell::install(&["debootstrap"], "debootstrap, which makes a base image,")?;
    }
    let folder = workspace::target().join("compose/base");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    shell::run_quietly(
        "making a base image of Debian's packages",
        Command::new("debootstrap")
            .args(["--variant=minbase", "bookworm"])
            .arg(&folder),
        Duration::from_mins(10),
    )?;
    let import = format!(
        "tar -C '{}' -c . | docker import - {OWN_BASE}",
        folder.display()
    );
    shell::run_quietly(
        "importing it",
        Command::new("sh").args(["-c", &import]),
        Duration::from_mins(5),
    )?;
    std::fs::remove_dir_all(&folder)?;
    Ok(OWN_BASE.to_owned())
}
