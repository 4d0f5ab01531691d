//! What stands in docs/commands.md? The help of every command, so that it cannot grow stale.

use clap::{Command, CommandFactory as _};

use crate::args::Cli;
use crate::output::put;

/// The document.
pub fn commands() -> String {
    let mut root = Cli::command().term_width(96).disable_help_subcommand(true);
    root.build();
    let mut text = String::from(
        "# The command `medbind`\n\n\
         This is what `medbind help` and `medbind COMMAND --help` say, command by command.\n",
    );
    section(&mut root, &mut text);
    text
}

fn section(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or("medbind").to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    put!(
        text,
        "\n## {name}\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    );
    for inner in command.get_subcommands_mut() {
        if !inner.is_hide_set() && inner.get_name() != "help" {
            section(inner, text);
        }
    }
}
