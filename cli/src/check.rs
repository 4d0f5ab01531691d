//! Is it configured as it should be? Finds configurations in a file, reads them by the module's
//! code, and looks at what stands around them.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use medbind_core::config::{ConfigProblem, PluginConfig};
use serde_json::{Value, json};

use crate::args::{Check, Global};
use crate::failure::{Failure, Outcome};
use crate::locate::{Kind, Node};
use crate::output::{self, put};
use crate::surroundings;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The module refuses the configuration, or what stands around it lets traffic past.
    Error,
    /// It works, and is weaker than it could be.
    Warning,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// What stands in a shipped file where a certificate goes.
const PLACEHOLDER: &str = "(the PEM of ";

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The line in the file, from 1; 0 where it is not known.
    pub line: u64,
    /// The field, from the top of its document.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl Finding {
    /// It works, and is weaker than it could be.
    pub fn warning(node: &Node, field: &str, what: &str, mend: &str) -> Self {
        Self {
            severity: Severity::Warning,
            line: node.line,
            field: field.to_owned(),
            what: what.to_owned(),
            mend: mend.to_owned(),
        }
    }

    /// It lets traffic past.
    pub fn error(node: &Node, field: &str, what: &str, mend: &str) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::warning(node, field, what, mend)
        }
    }
}

/// A configuration of the module, found in a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// The configuration.
    pub node: Node,
    /// Where it stands in its document; empty for a document of its own.
    pub field: String,
}

impl Found {
    /// Reads it by the module's code.
    pub fn parse(&self) -> Result<PluginConfig, Vec<String>> {
        PluginConfig::from_value(&self.node.to_json()).map_err(|error| {
            let problems = error.problems().iter();
            problems
                .map(|problem| {
                    let finding = self.finding(Severity::Error, problem);
                    format!(
                        "line {}: {}: {}; {}",
                        finding.line, finding.field, finding.what, finding.mend
                    )
                })
                .collect()
        })
    }

    fn finding(&self, severity: Severity, problem: &ConfigProblem) -> Finding {
        let inner = problem.path.to_string();
        let line = self.node.line_of(&inner);
        let text = self.node.text_at(&inner).unwrap_or_default();
        if text.contains(PLACEHOLDER) {
            return Finding {
                severity,
                line,
                field: format!("{}.{inner}", self.field),
                what: "this is the placeholder of the file as it is shipped".to_owned(),
                mend:
                    "put the certificate (PEM) of the CA that signs your devices in its place, or \
                       let `medbind edge init` make the whole file"
                        .to_owned(),
            };
        }
        let field = if problem.path.segments().is_empty() {
            self.field.clone()
        } else if self.field.is_empty() {
            inner
        } else {
            format!("{}.{inner}", self.field)
        };
        Finding {
            severity,
            line,
            field,
            what: problem.what.clone(),
            mend: problem.mend.clone(),
        }
    }

    /// The word of its `role`, as far as there is one.
    pub fn role(&self) -> &str {
        self.node.text_of("role").unwrap_or("?")
    }
}

/// Reads a file, or standard input for `-`.
pub fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::unreadable(path, &error))?;
    Ok(text)
}

/// All configurations of a file.
pub fn configurations(path: &Path, text: &str) -> Result<Vec<Found>, Failure> {
    let documents = Node::parse(text).map_err(|error| {
        Failure::usage(format_args!(
            "{}, line {}: neither YAML nor JSON: {}",
            path.display(),
            error.line,
            error.what
        ))
    })?;
    let mut found = Vec::new();
    for document in &documents {
        surroundings::find(document, text, &mut found);
    }
    Ok(found)
}

/// Everything that is found in a file, in the order of its lines; and what it holds.
fn examine(text: &str) -> (Vec<Finding>, Vec<Found>) {
    let mut findings = Vec::new();
    let mut found = Vec::new();
    let documents = match Node::parse(text) {
        Ok(documents) => documents,
        Err(error) => {
            findings.push(Finding {
                severity: Severity::Error,
                line: error.line,
                field: String::new(),
                what: format!("neither YAML nor JSON: {}", error.what),
                mend: "mend the syntax".to_owned(),
            });
            return (findings, found);
        }
    };
    for document in &documents {
        let before = found.len();
        findings.extend(surroundings::find(document, text, &mut found));
        let here = found.get(before..).unwrap_or_default();
        findings.extend(surroundings::examine(document, here));
    }
    for one in &found {
        match PluginConfig::from_value(&one.node.to_json()) {
            Ok(PluginConfig::Guard(guard)) => {
                let warnings = guard.warnings.iter();
                findings.extend(warnings.map(|problem| one.finding(Severity::Warning, problem)));
            }
            Ok(PluginConfig::Sync(_)) => {}
            Err(error) => {
                let problems = error.problems().iter();
                findings.extend(problems.map(|problem| one.finding(Severity::Error, problem)));
            }
        }
    }
    if found.is_empty() && findings.is_empty() {
        findings.push(Finding {
            severity: Severity::Error,
            line: 0,
            field: String::new(),
            what: "no configuration of medbind is in it".to_owned(),
            mend: "name a file with a guard's or synchroniser's configuration, alone or inside an \
                   Envoy bootstrap, ConfigMap, WasmPlugin, TrafficExtension or \
                   EnvoyExtensionPolicy"
                .to_owned(),
        });
    }
    findings.sort_by_key(|finding| finding.line);
    (findings, found)
}

/// Fails where a file that was made here would be refused or warned of.
pub fn must_be_taken(path: &Path, text: &str) -> Result<(), Failure> {
    let (findings, found) = examine(text);
    if findings.is_empty() {
        return Ok(());
    }
    let said = to_text(path, &findings, &found);
    Err(Failure::usage(format_args!(
        "the result would not be taken:\n{}",
        said.trim_end()
    )))
}

/// `medbind check`.
pub fn check(args: &Check, global: &Global) -> Outcome {
    let mut all = Vec::new();
    let mut configurations = Vec::new();
    let mut bad = false;
    for path in &args.files {
        let text = read(path)?;
        let (mut findings, found) = examine(&text);
        for finding in &mut findings {
            if args.strict {
                finding.severity = Severity::Error;
            }
            bad |= finding.severity == Severity::Error;
        }
        if global.json {
            all.extend(findings.iter().map(|finding| to_json(path, finding)));
            configurations.extend(found.iter().map(|one| {
                json!({
                    "file": path.display().to_string(),
                    "line": one.node.line,
                    "field": one.field,
                    "role": one.role(),
                })
            }));
        } else {
            output::text(&to_text(path, &findings, &found));
        }
    }
    if global.json {
        output::json(&json!({
            "ok": !bad,
            "configurations": configurations,
            "findings": all,
        }));
    }
    Ok(ExitCode::from(if bad { 2 } else { 0 }))
}

fn to_json(path: &Path, finding: &Finding) -> Value {
    let line = match finding.line {
        0 => Value::Null,
        line => json!(line),
    };
    json!({
        "file": path.display().to_string(),
        "line": line,
        "severity": finding.severity.as_str(),
        "field": finding.field,
        "what": finding.what,
        "mend": finding.mend,
    })
}

fn to_text(path: &Path, findings: &[Finding], found: &[Found]) -> String {
    let mut text = String::new();
    for finding in findings {
        let style = match finding.severity {
            Severity::Error => output::RED,
            Severity::Warning => output::YELLOW,
        };
        let line = match finding.line {
            0 => String::new(),
            line => format!(":{line}"),
        };
        let field = match finding.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        put!(
            text,
            "{}{line}: {style}{}:{style:#} {field}{}\n    {}\n",
            path.display(),
            finding.severity.as_str(),
            finding.what,
            finding.mend
        );
    }
    let count = |severity| {
        let count = findings.iter().filter(|one| one.severity == severity);
        count.count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let roles: Vec<String> = found
        .iter()
        .map(|one| format!("{} (line {})", one.role(), one.node.line))
        .collect();
    let roles = match roles.as_slice() {
        [] => String::new(),
        roles => format!("{}; ", roles.join(", ")),
    };
    let verdict = match (errors, warnings) {
        (0, 0) => format!("{green}ok{green:#}", green = output::GREEN),
        (errors, warnings) => format!("{errors} errors, {warnings} warnings"),
    };
    put!(text, "{}: {roles}{verdict}\n", path.display());
    text
}

/// Whether a node is a configuration of the module: it names a role, or holds what only a guard
/// does.
pub fn is_configuration(node: &Node) -> bool {
    let role = node.text_of("role");
    let known = role.is_some_and(|role| matches!(role, "http" | "mqtt" | "sync"));
    let is_list = |name| {
        let field = node.get(name);
        field.is_some_and(|field| matches!(field.kind, Kind::List(_)))
    };
    known || (is_list("issuers") && is_list("rules"))
}
