//! The command line as an interface: help, documents, completions, wrong usage.

mod common;

use common::Desk;

#[test]
fn docs_commands_md_is_what_the_help_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
    let written = Desk::new().run(&["help-markdown"]).ended_with(0).out;
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == written,
        "docs/commands.md is stale; renew it with: cargo run -p medbind-cli -- help-markdown > docs/commands.md"
    );
}

#[test]
fn every_command_has_examples_in_its_help() {
    let desk = Desk::new();
    let document = desk.run(&["help-markdown"]).ended_with(0).out;
    for section in document.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap();
        if ["medbind", "medbind ca", "medbind edge"].contains(&name) {
            continue;
        }
        assert!(section.contains("Examples:\n"), "{name}");
        assert!(section.contains(&format!("  {name}")), "{name}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let desk = Desk::new();
    desk.run(&["--help"]).ended_with(0);
    desk.run(&["--version"]).ended_with(0);
    for args in [
        &[][..],
        &["nothing"],
        &["show"],
        &["show", "SN1"],
        &["claim", "--account", "a", "--code", "K7Q2"],
    ] {
        desk.run(args).ended_with(2);
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.run(&["completions", shell]).ended_with(0).out;
        assert!(
            script.contains("medbind") && script.contains("provision"),
            "{shell}"
        );
    }
}

#[test]
fn an_error_says_what_and_what_next_in_words_and_in_json() {
    let mut desk = Desk::new();
    let ran = desk.run(&["list"]).ended_with(2);
    assert!(
        ran.err.contains("error: no credentials") && ran.err.contains("next: "),
        "{}",
        ran.err
    );
    let ran = desk.run(&["list", "--json"]).ended_with(2);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(error["next"].as_str().unwrap().contains("--credentials"));
    desk.set("MEDBIND_CREDENTIALS", "nowhere");
    assert!(
        desk.run(&["list"])
            .ended_with(2)
            .err
            .contains("nowhere/cert.pem")
    );
    for registry in [
        "http://registry",
        "registry:8443",
        "https://registry/v1",
        "https://",
    ] {
        let ran = desk.run(&["list", "--registry", registry]).ended_with(2);
        assert!(ran.err.contains("https://"), "{}", ran.err);
    }
}
