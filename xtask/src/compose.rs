//! The Compose stack: what its images are made of, and the base that they stand on.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use medbind_workshop::workspace;
use medbind_workshop::{progress, shell};

use crate::EnvoyArgs;
use crate::host::Host;
use crate::module::{self, Module};
use crate::programs;

/// The options of `cargo xtask compose`.
#[derive(Args)]
pub struct ComposeArgs {
    /// What to do
    #[arg(value_enum, default_value = "up")]
    action: Action,
    /// The base image of all images, of a Debian or Ubuntu no older than this system; without it
    /// one that is here, or one made of Debian's packages
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
    let mut command = prepare(args.action, args.base.as_deref(), &args.envoy)?;
    shell::become_program(&mut command)
}

/// The story across the stack, as a step of the tests.
pub fn test(envoy: &EnvoyArgs) -> Result<Command> {
    prepare(Action::Test, None, envoy)
}

fn prepare(action: Action, base_image: Option<&str>, envoy: &EnvoyArgs) -> Result<Command> {
    let flavour = Flavour::find()?;
    let host = Host::read();
    let (base, mut command) = if action == Action::Down {
        programs::build(&["compose"])?;
        (host.base_image(), Command::new(programs::path("compose")))
    } else {
        let base = match base_image {
            Some(base) => base.to_owned(),
            None => base(&host)?,
        };
        module::build(&[Module::Deployed])?;
        programs::build(&["medbind", "medbind-party", "compose"])?;
        (base, programs::harness("compose", envoy)?)
    };
    command
        .arg("--folder")
        .arg(workspace::target().join("compose"))
        .args(["--base", &base]);
    if flavour == Flavour::Plugin {
        command.arg("--plugin");
    }
    command.arg(match action {
        Action::Up => "up",
        Action::Test => "test",
        Action::Down => "down",
    });
    Ok(command)
}

/// Which Compose is here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// `docker-compose`
    Program,
    /// `docker compose`
    Plugin,
}

impl Flavour {
    fn find() -> Result<Self> {
        let plugin = || shell::output(Command::new("docker").args(["compose", "version"])).is_ok();
        let Some(found) = Self::of(shell::exists("docker-compose"), plugin) else {
            bail!("Docker Compose is missing: neither docker-compose nor docker compose is here");
        };
        // Is the daemon there, and does it let us in?
        shell::output(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
            .context("docker is here and its daemon does not answer")?;
        Ok(found)
    }

    fn of(program: bool, plugin: impl FnOnce() -> bool) -> Option<Self> {
        if program {
            Some(Self::Program)
        } else {
            plugin().then_some(Self::Plugin)
        }
    }
}

/// Why the stack cannot run on this machine, in one line.
pub fn missing() -> Option<String> {
    let error = Flavour::find().err()?;
    let text = format!("{error:#}");
    Some(text.lines().next().unwrap_or_default().to_owned())
}

/// A base image that is here, or one that is made of Debian's packages, which are signed. None is
/// pulled: a tag is whatever somebody last put there.
fn base(host: &Host) -> Result<String> {
    let (image, own) = (host.base_image(), host.own_base_image());
    let id = |image: &str| {
        let mut inspect = Command::new("docker");
        inspect.args(["image", "inspect", "--format", "{{.Id}}", image]);
        shell::output(&mut inspect).ok()
    };
    for image in [&own, &image] {
        if let Some(id) = id(image) {
            progress::say(&format!("    the images stand on {image}, {}", id.trim()));
            return Ok(image.clone());
        }
    }
    if !shell::is_root() {
        bail!(
            "there is no base image, and only root can make one of Debian's packages; get one \
             (docker pull {image}) and run this again, or name another with --base IMAGE"
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
            .args(["--variant=minbase", &host.codename])
            .arg(&folder),
        Duration::from_mins(10),
    )?;
    let import = format!("tar -C '{}' -c . | docker import - {own}", folder.display());
    shell::run_quietly(
        "importing it",
        Command::new("sh").args(["-c", &import]),
        Duration::from_mins(5),
    )?;
    std::fs::remove_dir_all(&folder)?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::Flavour;

    #[test]
    fn the_program_is_taken_before_the_plug_in() {
        assert_eq!(Flavour::of(true, || true), Some(Flavour::Program));
        assert_eq!(Flavour::of(true, || false), Some(Flavour::Program));
        assert_eq!(Flavour::of(false, || true), Some(Flavour::Plugin));
        assert_eq!(Flavour::of(false, || false), None);
    }
}
